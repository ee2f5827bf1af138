// What pages need beyond HTML: copy buttons, questions before dangerous forms, live fragments that disturb nobody.
// Everything is found by data attributes; all words come from the templates.
(function () {
  "use strict";

  // Copy buttons ------------------------------------------------------------------------------------------------
  async function copy(button) {
    const text = document.getElementById(button.dataset.copy).textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // No clipboard without HTTPS: select the text, so that the person can copy it.
      window.getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
      return;
    }
    const before = button.textContent;
    button.textContent = button.dataset.copied;
    setTimeout(() => { button.textContent = before; }, 1500);
  }
  for (const button of document.querySelectorAll("[data-copy]")) button.hidden = false;

  // Questions before forms --------------------------------------------------------------------------------------
  const dialog = document.getElementById("confirm");
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.dataset.confirm || form.dataset.confirmed) return;
    event.preventDefault();
    document.getElementById("confirm-text").textContent = form.dataset.confirm;
    document.getElementById("confirm-ok").textContent = form.dataset.confirmYes;
    dialog.returnValue = "";
    dialog.addEventListener("close", () => {
      if (dialog.returnValue !== "ok") return;
      form.dataset.confirmed = "yes";
      form.requestSubmit();
    }, { once: true });
    dialog.showModal();
  });

  // The deploy form ---------------------------------------------------------------------------------------------
  const form = document.getElementById("deploy-form");
  const select = form && form.elements.namedItem("version");

  // The form is never swapped, so newly pushed versions are added to it, and nothing typed is lost.
  function offerVersions() {
    if (!select) return;
    const known = new Set([...select.options].map((option) => option.value));
    const found = [...document.querySelectorAll("[data-version]")].map((row) => row.dataset.version);
    const fresh = found.filter((tag) => !known.has(tag)).reverse();
    for (const tag of fresh) select.add(new Option(tag, tag), 0);
    // The newest is chosen only where there was no choice before.
    if (fresh.length && !known.size) select.selectedIndex = 0;
    const empty = select.options.length === 0;
    form.querySelector("button[type=submit]").disabled = empty;
    const hint = document.querySelector("[data-no-version]");
    if (hint) hint.hidden = !empty;
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) copy(button);
    const pick = event.target.closest("[data-pick]");
    if (pick && select) {
      select.value = pick.dataset.pick;
      select.focus();
    }
    for (const menu of document.querySelectorAll("[data-menu][open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const menu of document.querySelectorAll("[data-menu][open]")) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });

  // Live fragments ----------------------------------------------------------------------------------------------
  const offline = document.getElementById("offline");
  const last = new WeakMap();
  const polls = (event) => event.detail.elt && event.detail.elt.hasAttribute("data-poll");

  // Events --------------------------------------------------------------------------------------------------------
  // A stream says when something happened, and the fragment asks for itself anew: polling is for what has no event,
  // and for when there is no stream.
  const streamed = document.querySelector("[data-stream]");
  const REST_MS = 6000;
  let source = null;
  let after = streamed && streamed.dataset.after;
  let polled = 0;
  let soon = 0;

  function news() {
    soon = soon || setTimeout(() => { soon = 0; window.htmx.trigger(streamed, "news"); }, 150);
  }
  function listen() {
    // A browser has few connections for each host, and a stream keeps one: only for a page that somebody looks at.
    if (!streamed || source || document.hidden || !window.EventSource) return;
    source = new EventSource(`${streamed.dataset.stream}?after=${encodeURIComponent(after)}`);
    source.onmessage = (event) => {
      after = event.lastEventId || after;
      news();
    };
    source.onerror = () => {
      // Refused, or ended for good: else the browser resumes by itself.
      if (source && source.readyState === EventSource.CLOSED) hush();
    };
  }
  function hush() {
    if (source) source.close();
    source = null;
  }
  if (streamed) {
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) return hush();
      listen();
      news();
    });
    window.addEventListener("pagehide", hush);
    setInterval(listen, 30000);
    listen();
  }

  document.addEventListener("htmx:beforeRequest", (event) => {
    if (!polls(event)) return;
    const told = event.detail.elt === streamed && source && source.readyState === EventSource.OPEN;
    const asked = event.detail.requestConfig.triggeringEvent;
    // A page that nobody looks at asks for nothing, and one that is told of news seldom asks without any.
    const rests = told && !asked && Date.now() - polled < REST_MS;
    if (document.hidden || rests) event.preventDefault();
    else polled = Date.now();
  });
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (!polls(event)) return;
    const text = event.detail.xhr.responseText;
    const selecting = String(window.getSelection()) && event.detail.elt.contains(window.getSelection().anchorNode);
    // Nothing new, or somebody is marking text there: leave the page alone.
    if (last.get(event.detail.elt) === text || selecting) event.detail.shouldSwap = false;
    else if (event.detail.shouldSwap) last.set(event.detail.elt, text);
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    // Refused by beforeRequest: there was no answer to judge.
    if (!polls(event) || !event.detail.xhr) return;
    const gone = event.detail.xhr.status === 404 && event.detail.elt.dataset.gone;
    if (gone) window.location.assign(gone);
    else offline.hidden = event.detail.successful === true;
  });
  document.addEventListener("htmx:sendError", () => { offline.hidden = false; });
  document.addEventListener("htmx:afterSwap", offerVersions);
  offerVersions();

  // Uploads -------------------------------------------------------------------------------------------------------
  // As the body of the request and not as a form: the browser reads the file as it goes, and so does the portal.
  const upload = document.getElementById("upload-form");
  function send(file, tag) {
    const bar = document.getElementById("upload-bar");
    const stop = document.getElementById("upload-stop");
    const submit = upload.querySelector("button[type=submit]");
    const request = new XMLHttpRequest();
    const say = (text) => {
      const status = document.getElementById("upload-status");
      status.textContent = text;
      status.hidden = false;
    };
    const over = (text) => {
      say(text);
      bar.hidden = stop.hidden = true;
      submit.disabled = false;
      window.removeEventListener("beforeunload", stay);
    };
    const stay = (event) => event.preventDefault();
    const refusal = () => {
      let told = {};
      try { told = JSON.parse(request.responseText); } catch { /* a proxy's own page */ }
      const words = [...document.querySelectorAll("#upload-words [data-code]")];
      const ours = words.find((one) => one.dataset.code === told.code);
      return ours ? ours.textContent : told.detail || `${upload.dataset.broken} (${request.status})`;
    };
    request.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable && event.total) bar.value = (100 * event.loaded) / event.total;
    });
    request.addEventListener("load", () => over(request.status === 202 ? upload.dataset.sent : refusal()));
    request.addEventListener("error", () => over(upload.dataset.broken));
    request.addEventListener("abort", () => over(upload.dataset.stopped));
    request.open("PUT", `${upload.dataset.upload}?tag=${encodeURIComponent(tag)}`);
    request.setRequestHeader("Content-Type", "application/x-tar");
    request.setRequestHeader("X-CSRFToken", upload.elements.namedItem("csrfmiddlewaretoken").value);
    stop.onclick = () => request.abort();
    window.addEventListener("beforeunload", stay);
    bar.value = 0;
    bar.hidden = stop.hidden = false;
    submit.disabled = true;
    say(upload.dataset.sending);
    request.send(file);
  }
  if (upload) {
    upload.hidden = false;
    upload.addEventListener("submit", (event) => {
      event.preventDefault();
      const file = document.getElementById("upload-file").files[0];
      const large = file && file.size > Number(upload.dataset.most);
      if (large) {
        const status = document.getElementById("upload-status");
        status.textContent = upload.dataset.tooLarge;
        status.hidden = false;
      } else if (file) send(file, document.getElementById("upload-tag").value);
    });
  }

  // Small things ------------------------------------------------------------------------------------------------
  // A reload must not send the form again that made the secret which the page shows.
  const replaced = document.querySelector("[data-replace-url]");
  if (replaced) history.replaceState(null, "", replaced.dataset.replaceUrl);
  const problem = document.querySelector("[data-focus]");
  if (problem) problem.focus();
})();
