"Who writes rationales, and what is kept of it"
