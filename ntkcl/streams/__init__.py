"""From one source to a sequence of tasks: rotated, permuted, split; mixtures of tasks; and teachers
without images.

Tasks made of images hold `train_per_class` and `test_per_class` of each of their classes, drawn by
`seed` alone; train and test images come from the source's own two sets and never meet. With
`same_images` every task transforms the same draw (the usual benchmark); otherwise the tasks' draws
are disjoint. Pixels are standardised last, so what a transformation leaves empty is black. Texts
are split alone, their token ids as they are.
"""

from ntkcl.streams.mixture import mixture
from ntkcl.streams.permuted import permuted
from ntkcl.streams.rotated import rotated
from ntkcl.streams.split import split
from ntkcl.streams.teacher_student import teacher_student

__all__ = ["mixture", "permuted", "rotated", "split", "teacher_student"]
