"""`python -m ntkcl` and the command `ntkcl`: starts and ends `ntkcl.command` quickly."""

import gc


def main() -> None:
    """The command, its imports and its end without the garbage collector: nothing of the one and all of the other is garbage, and
    looking through it takes .7 seconds."""
    gc.disable()
    from ntkcl.command import main as command

    gc.freeze()
    gc.enable()
    try:
        command()
    finally:
        gc.freeze()


if __name__ == "__main__":
    main()
