"""How a report looks: charts, thumbnails and the page, from the records of `d4c.report.measures`."""
