"""One HTML page from folders of tables, and its charts as files."""
