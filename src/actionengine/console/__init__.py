"""A console for operators: pages over an engine's governed actions. Needs the extra `console`.

    app.mount("/console", create_console(engine, identify))

`create_console` returns an ASGI application, and `as_wsgi` makes a WSGI application of it.

To add a page:

1. `pages/<name>.py` has `async def view(visit) -> dict`: it reads by `await visit.read("service.action", payload)`,
   and returns the variables of its template. An `ActionError` becomes the error page.
2. `templates/<name>.html` extends `base.html` and fills its block `content`. `url("/path", **query)` makes each
   address, `ui` has the macros of `macros.html`, and the filters `time` and `json` show a time and a value.
3. A tuple `PAGES` of that module declares it: `Page(path=…, title=…, view=…, template=…, action="service.action")`.
   A caller that may not execute the action gets 403, and no link. Add the tuple to `PAGES` in `pages/__init__.py`.
4. A `Button(action=…, label=…, done=…)` in the page's `buttons` may be pressed. The view offers it for a thing:
   `await visit.offer(Offer(BUTTON, payload, resource=…, when=…), …)` returns the buttons that the caller may press, and
   the template shows each with `{{ ui.button(each) }}`.

`__init__.pyi` lists the public names. Each is loaded when it is first used.
"""

from actionengine._lazy import attach

__getattr__, __dir__ = attach(__name__)
