-- Removes a file.
--
-- KEYS  as _lib.lua says of files
-- ARGV  1 now  2 file id
-- Returns  1, or 0: there was none
sweep_files(now_us())
if redis.call('HEXISTS', KEYS[2], ARGV[2]) == 0 then return 0 end
drop_file(ARGV[2])
redis.call('UNLINK', KEYS[8])
return 1
