-- Writes to a turn without changing it: what waits for the replicas' word on this connection then waits for all that was
-- written before, on whichever connection that was.
--
-- KEYS  1 turn
-- ARGV  1 now
-- Returns  'OK'  'GONE'
if redis.call('EXISTS', KEYS[1]) == 0 then return 'GONE' end
redis.call('HSET', KEYS[1], 'confirmed', int(now_us()))
return 'OK'
