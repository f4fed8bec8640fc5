"""PostgreSQL: connections, the private server, the tables, and the SQL that reads and writes them."""
