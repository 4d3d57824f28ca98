"""Results in; tables, Figure 1, the printed report and the site out."""
