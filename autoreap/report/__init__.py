"""The morning: the front as a table, a picture and a page, and all about one trial."""
