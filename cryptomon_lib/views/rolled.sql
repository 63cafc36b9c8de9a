-- Until when all closed hours are rolled up, in one row.
-- grain: rolled_until
-- units: none
-- lookback: 26 h
-- why: hours are rolled up whole and oldest first, so the end of the newest one says it. Where the last 26 h have
--      none it is 1970: what is asked for then comes from the values themselves.
with final as (
    select coalesce(max(hour_at) + interval '1' hour, timestamp '1970-01-01 00:00:00.000') as rolled_until
    from rollups_1h
    where
        day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '26' hour) as varchar)
        and hour_at >= date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '25' hour
        and hour_at < date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3)))
)

select rolled_until
from final
