"""From typed records to shards: the stages of `regionr1 data prepare`.

`embed` fills a `store`, `pools` retrieves or imports candidates, `label` marks the positives, and
`stages` strings them together. Each stage keeps its result and does nothing twice.
"""
