"""Results for readers: tables (CSV, Markdown, LaTeX) and the ablation table of a study."""
