"""What people read: tables, plots in one style, executed notebooks and self-contained pages."""
