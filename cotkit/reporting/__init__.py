"Figures, pages and published folders"
