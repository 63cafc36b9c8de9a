-- Until when the ticks of all closed hours are summed up in ticks_1h, in one row.
-- grain: rolled_until
-- units: none
-- lookback: 26 h
-- why: as `rolled`, of the other table of roll-ups: either may be ahead. Where the last 26 h have none it is 1970.
with final as (
    select coalesce(max(hour_at) + interval '1' hour, timestamp '1970-01-01 00:00:00.000') as rolled_until
    from ticks_1h
    where
        day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '26' hour) as varchar)
        and hour_at >= date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '25' hour
        and hour_at < date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3)))
)

select rolled_until
from final
