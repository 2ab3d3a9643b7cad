"""A page to speak to: press record or drop a sound, and see its emotion over time while it comes.

    bin/listen.py
    bin/listen.py runs/demo/session1/recogniser --no-browser --port 8470        # open the printed address yourself

The page is served to this computer alone and nothing is stored. Ctrl-C ends it.
"""
import webbrowser

from framealign.runtime import log, settings
from framealign.emotion.recogniser import Recogniser
from framealign.emotion.streaming import Streaming
from framealign.report import listening_page
from framealign.commands import command_line
from framealign.commands.listening import Listener, Listening
from framealign.commands.local_server import LocalServer, Serving


def main(arguments: list[str] | None = None) -> None:
    """Read the command line (`arguments`, or that of the process) and serve the page until Ctrl-C."""
    parser = command_line.parser("listen", __doc__, "[model]")
    parser.add_argument("model", nargs="?", default="", help="a recogniser's directory; without one, the one that "
                        "comes along is taken")
    parser.add_argument("--no-browser", action="store_true", help="print the address and open no browser")
    for kind in (Serving, Listening):
        settings.add_flags(parser, kind)
    settings.add_flags(parser.add_argument_group("while one speaks"), Streaming)
    args = parser.parse_args(arguments)

    config = settings.from_flags(args, Listening())
    recogniser = Recogniser.from_pretrained(args.model, config.device, gate=config.gate)
    name = args.model or "the recogniser that comes along"
    listener = Listener(recogniser, name, settings.from_flags(args, Streaming()), config)
    server = serve(listener, settings.from_flags(args, Serving()))
    listener.warm_up()
    try:
        log.say(f"{server.address}\nopen this address in a browser on this computer; Ctrl-C ends it")
        if not args.no_browser:
            webbrowser.open(server.address)
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


def serve(listener: Listener, config: Serving) -> LocalServer:
    """The server of the page; its port is open, but nothing is answered before `serve_forever`."""
    headers = {"Content-Security-Policy": listening_page.policy(listener.page),
               "Permissions-Policy": listening_page.PERMISSIONS}
    return LocalServer(listener.routes(), config, headers, listener.forget_idle)
