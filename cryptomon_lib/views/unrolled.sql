-- The values that no roll-up holds: those of the present hour, and of closed hours that are not rolled up yet.
-- grain: market_id, measure, at
-- units: as measures
-- lookback: 26 h
-- time: at
-- why: what is read beside the roll-ups to reach to now.
with final as (
    select
        market_id,
        measure,
        at,
        value
    from measures
    where at >= (select rolled_until from rolled)
)

select
    market_id,
    measure,
    at,
    value
from final
