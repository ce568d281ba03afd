SELECT strftime('%Y', d), count(*) FROM orders GROUP BY 1
