"""Coverage-guided fuzzing of one reader: `fuzz.py KIND RUNS FOLDER`, run by test_hostile.py where atheris is installed.

libFuzzer changes the good files of hostile_files.py and keeps what reaches new branches of framealign. It ends with
status 0 after RUNS mutations, and otherwise leaves the file that crashed, hung 2 s or raised anything but ValueError.
"""
import sys
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["framealign"]):
    import hostile_files


def main() -> None:
    kind, runs, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    good, name, read = hostile_files.Readers(folder / "files").good[kind]
    path, seeds, counts = folder / "files" / name, folder / "seeds", {"read": 0, "refused": 0}
    path.parent.mkdir(parents=True, exist_ok=True)
    seeds.mkdir()
    for index, data in enumerate(good):
        (seeds / f"{index}").write_bytes(data)
        path.write_bytes(data)
        read(path)                                  # a good one is read; what is set up once is set up now

    def one_input(data: bytes) -> None:
        path.write_bytes(data)
        try:
            read(path)
            counts["read"] += 1
        except ValueError as error:
            assert str(error) and "\n" not in str(error) and len(str(error)) < 6000, error
            counts["refused"] += 1
        if sum(counts.values()) == runs:
            print(f"{kind}: {counts['read']} read, {counts['refused']} refused", flush=True)

    warnings.simplefilter("ignore")
    with hostile_files.bounded():
        atheris.Setup([sys.argv[0], f"-runs={runs}", "-seed=1", f"-timeout={hostile_files.SECONDS:.0f}",
                       f"-max_len={2 * max(map(len, good)) + 4096}", "-rss_limit_mb=0", f"-artifact_prefix={folder}/",
                       str(seeds)], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
