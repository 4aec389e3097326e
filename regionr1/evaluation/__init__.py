"""What is measured of a policy: views of a query, tables, intervals, comparisons and pictures.

From per-query outcomes to what people read. Nothing here trains or logs.
"""
