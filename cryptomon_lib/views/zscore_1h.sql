-- How many standard deviations of its last hour the newest value is away from that hour's average.
-- grain: market_id, measure
-- units: zscore_1h in standard deviations, negative below the average; the rest in the measure's unit
-- lookback: 75 min
-- why: a ratio calls nothing unusual that keeps near its average; a price that hardly moves and then does is. The value
--      itself is not in the average. Null with fewer than 30 of the 60 samples, and where the hour did not move.
with final as (
    select
        market_id,
        measure,
        at,
        value,
        average_1h,
        stddev_1h,
        (value - average_1h) / nullif(stddev_1h, 0e0) as zscore_1h,
        samples,
        expected
    from now_1h
)

select
    market_id,
    measure,
    at,
    value,
    average_1h,
    stddev_1h,
    zscore_1h,
    samples,
    expected
from final
