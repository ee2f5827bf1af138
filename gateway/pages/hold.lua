-- A request to an app without an instance waits for the first one, for as long as the app's owner lets it.
-- In a worker that was replaced no instance will come: the client asks again, and meets the newest worker.
core.register_action("hold", { "http-req" }, function(txn)
  local left = tonumber(txn:get_var("txn.hold")) or 0
  while left > 0 and tonumber(txn.f:nbsrv()) == 0 do
    if txn.f:stopping() == 1 or txn.f:stopping() == true then
      txn:done(txn:reply { status = 307, headers = { ["location"] = { txn.f:pathq() }, ["cache-control"] = { "no-store" } } })
      return
    end
    core.msleep(20)
    left = left - 20
  end
end, 0)
