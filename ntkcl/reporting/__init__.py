"""What people read: the terminal, tables, figures, the HTML page, Weights & Biases.

    console          the terminal while a run is made
    final_table      the tables that the terminal shows at the end
    table            runs read from their folders, one row each
    where            conditions on rows
    columns          settings and numbers among the columns
    cells            means over seeds with their intervals
    formats          Markdown, LaTeX, CSV, Parquet
    figures          a run's figures by matplotlib
    explanation      the figure of why a task is forgotten
    panels           the plots of a sweep, for the page and for Weights & Biases
    html             the page, by plotly
    wandb_runs       a run in Weights & Biases
    wandb_workspace  a dashboard in Weights & Biases

Labels come from `ntkcl.runs.schema`, the table of all quantities.
"""
