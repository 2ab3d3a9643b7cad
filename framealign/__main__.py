"""The verbs of framealign, where the package is installed: `framealign VERB ...` or `python -m framealign VERB ...`.

They are the same code as bin/VERB.py of a checkout.
"""
import functools
import importlib
import sys

from framealign import __version__
from framealign.runtime import terminal

VERBS = {
    "demo": "the whole method on a synthetic corpus, in minutes on a CPU, with a report to look at",
    "recognise": "the emotion in sound files, by a trained recogniser; also over time",
    "listen": "a page to speak to: emotion over time while one speaks, or of a sound that is dropped",
    "session": "the whole recipe on one fold or on all, from sound files to a tested recogniser",
    "evaluate": "the table of a run, of several seeds or methods, or the difference of two runs",
    "report": "a run's pages: result, training, units, map, sounds",
    "lesson": "every step of the method as a picture of one utterance",
    "prepare": "a manifest, corpus.tsv, out of a corpus",
    "units": "one step of the recipe: k-means units of every utterance",
    "pretrain": "one step of the recipe: masked prediction of units",
    "finetune": "one step of the recipe: emotion recognition on top of an encoder",
    "export": "an encoder or recogniser in Hugging Face's format, torchaudio's names, or as a program",
    "voices": "the models that come along, made again out of tables of speech",
    "verify": "a model's states and units against those of fairseq's released HuBERT",
}


def main() -> int:
    """Run the verb that the command line names: its exit status. Only that verb's module is imported."""
    verb, *arguments = sys.argv[1:] or ["--help"]
    if verb in ("-h", "--help"):
        terminal.put(listing() + "\n")
        return 0
    if verb == "--version":
        terminal.put(f"framealign {__version__}\n")
        return 0
    if verb not in VERBS:
        terminal.put(f"error: {refusal(verb)}\n", sys.stderr)
        return 2

    from framealign.runtime import log
    module = importlib.import_module(f"framealign.commands.{verb}_command")
    return log.command(functools.partial(module.main, arguments))


def listing() -> str:
    """Every verb with what it does or makes, a line each."""
    lines = [f"  {verb:12}{words}" for verb, words in VERBS.items()]
    return "\n".join(["usage: framealign VERB ...", "", "Speech emotion recognition, frame by frame. The verbs:", "",
                      *lines, "", "framealign VERB --help shows the flags of a verb, with examples."])


def refusal(verb: str) -> str:
    """Why this word is no verb, in one line."""
    if verb == "bench":
        return "bench imports the packages it compares with, so it is in the checkout alone: bin/bench.py"
    return f"no verb {verb!r}; there are: {', '.join(VERBS)}"


if __name__ == "__main__":
    sys.exit(main())
