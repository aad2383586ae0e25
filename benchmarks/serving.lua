-- wrk: POST the body in the file argv[2] to the path argv[1] with the key argv[3].
function init(args)
  local file = assert(io.open(args[2], "rb"))
  local headers = { ["Content-Type"] = "application/json", ["Authorization"] = "Bearer " .. args[3] }
  request_bytes = wrk.format("POST", args[1], headers, file:read("*a"))
  file:close()
end

function request()
  return request_bytes
end

function done(summary, latency, requests)
  local failed = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout
  local line = '{"requests": %d, "seconds": %.6f, "failed": %d, "p50_ms": %.3f, "p99_ms": %.3f}\n'
  io.write(line:format(summary.requests, summary.duration / 1e6, failed, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3))
end
