-- Tells whoever was refused for too many requests when to come back.
function envoy_on_response(handle)
  local headers = handle:headers()
  local reset = headers:get("x-ratelimit-reset")
  if headers:get(":status") == "429" and reset then
    headers:replace("retry-after", reset)
  end
  for _, name in ipairs({"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"}) do
    headers:remove(name)
  end
end
