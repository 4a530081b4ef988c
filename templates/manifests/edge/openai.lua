-- What the router answers, in OpenAI's terms and under the names that the tenant knows. Errors of this script fail closed
-- before a request is sent on: `pcall` catches them, because Envoy itself would send the request on as it is.

local QUOTE, COMMA, COLON, OPEN, CLOSE, OPEN_LIST = 34, 44, 58, 123, 125, 91

-- Returns the place of the quote that ends a string of JSON, which begins at `at`.
local function string_end(text, at)
  at = at + 1
  while true do
    local found = text:find('["\\]', at)
    if not found then return nil end
    if text:byte(found) == QUOTE then return found end
    at = found + 2
  end
end

-- What a request may have: keys of an object, objects inside one another, quotes and brackets. All tenants of a node share its
-- proxy, and each of these costs far more than a byte of text. Answers are an engine's, and may have more.
local MOST_MEMBERS, MOST_DEPTH, MOST_MARKS = 256, 256, 400000

-- Returns the last place of a value of JSON, which begins at `at`.
local function value_end(text, at, most)
  local first = text:byte(at)
  if first == QUOTE then return string_end(text, at) end
  if first ~= OPEN and first ~= OPEN_LIST then
    local stop = text:find("[,}%]%s]", at)
    return stop and stop > at and stop - 1 or nil
  end
  local depth, marks = 0, 0
  while true do
    local found = text:find('["{}%[%]]', at)
    marks = marks + 1
    if not found or marks > most then return nil end
    local byte = text:byte(found)
    if byte == QUOTE then
      found = string_end(text, found)
      if not found then return nil end
    elseif byte == OPEN or byte == OPEN_LIST then
      depth = depth + 1
      if depth > MOST_DEPTH then return nil end
    else
      depth = depth - 1
      if depth == 0 then return found end
    end
    at = found + 1
  end
end

-- Returns where the values of an object of JSON are, by key: {first, last}. nil for anything that two readers could read
-- differently: a repeated or escaped key, or text around the object.
local function members(text, most)
  local count = 0
  local at = text:find("%S")
  if not at or text:byte(at) ~= OPEN then return nil end
  local found = {}
  at = text:find("%S", at + 1)
  if at and text:byte(at) == CLOSE then return not text:find("%S", at + 1) and found or nil end
  while at and text:byte(at) == QUOTE do
    local last = string_end(text, at)
    local key = last and text:sub(at + 1, last - 1)
    count = count + 1
    if not key or count > MOST_MEMBERS or key:find("\\", 1, true) or found[key] then return nil end
    at = text:find("%S", last + 1)
    if not at or text:byte(at) ~= COLON then return nil end
    at = text:find("%S", at + 1)
    local stop = at and value_end(text, at, most or MOST_MARKS)
    if not stop then return nil end
    found[key] = {at, stop}
    at = text:find("%S", stop + 1)
    local byte = at and text:byte(at)
    if byte == CLOSE then return not text:find("%S", at + 1) and found or nil end
    if byte ~= COMMA then return nil end
    at = text:find("%S", at + 1)
  end
  return nil
end

local function raw(text, place) return place and text:sub(place[1], place[2]) end
local function replaced(text, place, by) return text:sub(1, place[1] - 1) .. by .. text:sub(place[2] + 1) end
-- Returns the object with another member first.
local function with(text, member)
  local at = text:find("{", 1, true)
  local more = text:find("^%s*}", at + 1) and "" or ","
  return text:sub(1, at) .. member .. more .. text:sub(at + 1)
end

local function error_object(message, kind, code)
  return '{"error":{"message":"' .. message .. '","type":"' .. kind .. '","param":null,"code":"' .. code .. '"}}'
end

local function note(handle, key, value) handle:streamInfo():dynamicMetadata():set("edge", key, value) end
local function noted(handle, key) return (handle:streamInfo():dynamicMetadata():get("edge") or {})[key] end

local function refuse(handle, status, message, code)
  note(handle, "answered", true)
  local kind = status >= 500 and "server_error" or "invalid_request_error"
  handle:respond({[":status"] = tostring(status), ["content-type"] = "application/json"}, error_object(message, kind, code))
end

local SERVED = {["/v1/chat/completions"] = true, ["/v1/completions"] = true}

local function request(handle)
  local headers = handle:headers()
  local path = (headers:get(":path") or ""):match("^[^?]*")
  -- Of anything else no body is waited for.
  if headers:get(":method") ~= "POST" or not SERVED[path] then return end
  local body = handle:body(true)
  local text = body and body:length() > 0 and body:getBytes(0, body:length()) or ""
  local context = handle:filterContext()
  if #text > context:get("most_bytes") then
    return refuse(handle, 413, "The request is larger than this tenant may send.", "request_too_large")
  end
  local all = members(text)
  if not all then
    return refuse(handle, 400, "The body is not a JSON object, or has a key twice, or a key with escapes.", "invalid_json")
  end
  local name = raw(text, all.model)
  if not name or name:byte(1) ~= QUOTE then
    return refuse(handle, 400, "`model` is missing or is not a text.", "missing_model")
  end
  if not context:get("models")[name] then
    return refuse(handle, 404, "The model does not exist here; GET /v1/models lists those that do.", "model_not_found")
  end
  note(handle, "model", name:sub(2, -2))
  local streamed = raw(text, all.stream)
  if not streamed or streamed == "false" or streamed == "null" then return end
  -- An engine may read 1 and "true" as true, and would answer uncounted.
  if streamed ~= "true" then
    return refuse(handle, 400, "`stream` is neither true nor false.", "invalid_stream")
  end
  note(handle, "stream", true)
  -- Tokens are counted by what the engine reports at the end.
  local options, more = raw(text, all.stream_options), nil
  if not options then
    more = with(text, '"stream_options":{"include_usage":true}')
  elseif options == "null" then
    more = replaced(text, all.stream_options, '{"include_usage":true}')
  else
    local inner = members(options)
    if not inner then
      return refuse(handle, 400, "`stream_options` is not an object.", "invalid_stream_options")
    end
    local usage = raw(options, inner.include_usage)
    if usage ~= "true" then
      local asked = usage and replaced(options, inner.include_usage, "true") or with(options, '"include_usage":true')
      more = replaced(text, all.stream_options, asked)
    end
  end
  if more then
    note(handle, "hide_usage", true)
    body:setBytes(more)
    handle:headers():replace("content-length", tostring(#more))
  end
end

-- Returns a number of tokens; nil for anything else.
local function tokens(text, place)
  local digits = raw(text, place)
  return digits and #digits < 10 and digits:find("^%d+$") and tonumber(digits) or nil
end

-- Remembers the tokens of a completion, and returns it under the name that was asked for; nil if it cannot be read or is an error.
local function told(handle, text, name)
  local all = members(text, math.huge)
  if not all or all.error then return nil end
  local usage = raw(text, all.usage)
  local counts = usage and members(usage)
  if counts then
    note(handle, "tokens_in", tokens(usage, counts.prompt_tokens))
    note(handle, "tokens_out", tokens(usage, counts.completion_tokens))
  end
  local only_usage = counts and (raw(text, all.choices) or ""):find("^%[%s*%]$")
  if all.model then text = replaced(text, all.model, '"' .. name .. '"') end
  return text, only_usage
end

local BROKEN = "data: " .. error_object("The model stopped before the end of its answer.", "server_error", "model_lost") .. "\n\n"

-- The longest line of a stream, in bytes: it is held until its end has come.
local MOST_LINE = 1048576

-- Returns whether a line may still become one of an event stream.
local function is_event(line)
  for _, field in ipairs({"data:", "event:", "id:", "retry:", ":", "\r"}) do
    local size = math.min(#line, #field)
    if line:sub(1, size) == field:sub(1, size) then return true end
  end
  return false
end

-- Passes a stream on event by event. One that ends before its last event, or that says anything but events of a completion, ends
-- with an error.
local function stream(handle, name, hide)
  local parts, size, head = {}, 0, ""
  local events, dropped, done, broken = 0, false, false, false
  -- Returns what a line becomes.
  local function said(line)
    local start, data = line:match("^(data:%s*)(.-)%s*$")
    if data == "[DONE]" then
      done = true
      return line
    elseif data then
      local json, only_usage = told(handle, data, name)
      if not json then
        broken = true
        return BROKEN
      end
      dropped = only_usage and hide
      events = events + (only_usage and 0 or 1)
      return dropped and "" or start .. json .. "\n"
    elseif line:find("^%s*$") then
      -- The empty line behind an event that was taken out goes with it.
      local with_it = dropped
      dropped = false
      return with_it and "" or line
    elseif is_event(line) then
      return line
    end
    broken = true
    return BROKEN
  end
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    local text, out = length > 0 and chunk:getBytes(0, length) or "", {}
    if length == 0 and not broken then
      -- The end.
      local rest = table.concat(parts)
      if rest ~= "" then out[1] = said(rest .. "\n") end
      if not done and not broken then out[#out + 1] = BROKEN end
      broken = broken or not done
    end
    local at = 1
    while not broken and length > 0 do
      local stop = text:find("\n", at, true)
      if not stop then break end
      parts[#parts + 1] = text:sub(at, stop)
      out[#out + 1] = said(table.concat(parts))
      parts, size, head, at = {}, 0, "", stop + 1
    end
    if not broken and at <= #text then
      parts[#parts + 1] = text:sub(at)
      size = size + #text - at + 1
      if #head < 8 then head = (head .. text:sub(at, at + 8)):sub(1, 8) end
      if size > MOST_LINE or not is_event(head) then
        broken = true
        out[#out + 1] = BROKEN
      end
    end
    if length > 0 or #out > 0 then chunk:setBytes(table.concat(out)) end
    note(handle, "events", events)
    if broken then note(handle, "broken", true) end
  end
end

-- What the bare words of Kthena 1.0.0 mean: pattern, status, code, message.
local MEANINGS = {
  {"can't schedule to target pod", 503, "overloaded", "The model has too many requests waiting. Try again."},
  {"can't find model server", 503, "unavailable", "The model has no replica that is ready. Try again."},
  {"no available pods", 503, "unavailable", "The model has no replica that is ready. Try again."},
  {"rate limit exceeded", 429, "rate_limit_exceeded", "Too many tokens. Try again later."},
  {"request to all pods failed", 502, "engine_failed", "The engine refused the request or closed the connection."},
  {"request processing failed", 502, "engine_failed", "The engine refused the request or closed the connection."},
  {"prompt not found", 400, "missing_prompt", "`messages` or `prompt` is missing, or of a kind that is not served."},
  {"model not found", 404, "model_not_found", "The model does not exist here; GET /v1/models lists those that do."},
  {"route not found", 404, "model_not_found", "The model does not exist here; GET /v1/models lists those that do."},
  {'"Offset":', 400, "invalid_json", "The body is not valid JSON."},
}

local function response(handle)
  local name = noted(handle, "model")
  -- What never reached the router was answered by the edge.
  if not name or noted(handle, "answered") then return end
  local headers = handle:headers()
  local status, kind = tonumber(headers:get(":status")), (headers:get("content-type") or ""):lower()
  if status < 400 and kind:find("^text/event%-stream") then
    return stream(handle, name, noted(handle, "hide_usage"))
  end
  local body = handle:body(true)
  local text = body and body:length() > 0 and body:getBytes(0, body:length()) or ""
  local answer
  if status < 400 then
    answer = kind:find("^application/json") and told(handle, text, name)
    if not answer then
      status, answer = 502, error_object("The engine gave no answer of a known kind.", "server_error", "engine_failed")
    end
  else
    local all = members(text, math.huge)
    -- An engine's error about the request (400, 422) reaches the client; errors about the engine or the router do not.
    if all and all.error and text:byte(all.error[1]) == OPEN and status < 500 and status ~= 404 then return end
    local code, message = "refused", "The request was refused."
    if status >= 500 then code, message = "unavailable", "The model cannot be reached now. Try again." end
    for _, meaning in ipairs(MEANINGS) do
      if text:find(meaning[1], 1, true) then
        status, code, message = meaning[2], meaning[3], meaning[4]
        break
      end
    end
    answer = error_object(message, status >= 500 and "server_error" or "invalid_request_error", code)
  end
  headers = handle:headers()
  if status >= 400 then
    headers:replace(":status", tostring(status))
    headers:replace("content-type", "application/json")
    if status == 503 then headers:replace("retry-after", "1") end
  end
  if body then
    body:setBytes(answer)
    handle:headers():replace("content-length", tostring(#answer))
  end
end

function envoy_on_request(handle)
  local fine, why = pcall(request, handle)
  if not fine then
    handle:logErr("request: " .. tostring(why))
    refuse(handle, 500, "The request could not be handled.", "internal_error")
  end
end

function envoy_on_response(handle)
  local fine, why = pcall(response, handle)
  if not fine then handle:logErr("response: " .. tostring(why)) end
end
