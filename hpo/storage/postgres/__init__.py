"""PostgreSQL: connections, the private server, the tables, and the SQL on them."""
