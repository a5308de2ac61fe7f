"""Mutation testing of `sb3_forecast/statistics` and `sb3_forecast/training` with mutmut, on a random sample of mutants.

Changes of texts only (error messages, what is warned) are noise: they are counted apart and not tried. What was tried is kept in `mutants/`,
so that the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import os
import pathlib
import random
import sys
from typing import Any

for _name, _value in (("OMP_NUM_THREADS", "1"), ("OMP_WAIT_POLICY", "passive")):
    os.environ.setdefault(_name, _value)
sys.path.pop(0)  # this folder

import mutmut.__main__ as tool
from mutmut.mutation.data import MutantLineSpans, SourceFileMutationData
from mutmut.mutation.diff_apply import generated_function_names
from mutmut.utils.file_utils import walk_mutatable_files

TEXTS = pathlib.Path("mutants") / "texts.json"
_CHECKS = {"whole", "real", "inside_unit", "one_of", "score_vector", "check_seed", "_log_argument", "write_plain"}
_SPEAKS = {"warn", "_warn", "print"}
_SKIPPED = 34
_UNNOTICED = ("survived", "no tests")


class _WithoutTexts(ast.NodeTransformer):
    """A function without the words that it says."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name = "f"
        if ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
        self.generic_visit(node)
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return ast.Constant("")

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Constant("") if isinstance(node.value, str) and " " in node.value else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if name in _SPEAKS:
            node.args, node.keywords = [], []
        if name in _CHECKS:
            texts = [
                i
                for i, arg in enumerate(node.args)
                if isinstance(arg, ast.Constant) and (isinstance(arg.value, str) or arg.value is None)
            ]
            node.args = [ast.Constant("") if i in texts else arg for i, arg in enumerate(node.args)]
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "use"]
        self.generic_visit(node)
        return node


def without_texts(source: str) -> str:
    """What a function does, as text."""
    return ast.dump(_WithoutTexts().visit(ast.parse(source.strip())))


def texts_of(path: pathlib.Path, names: list[str]) -> list[str]:
    """The mutants of a file that change texts only."""
    index = MutantLineSpans.load(path)
    assert index is not None
    originals: dict[str, str] = {}
    found = []
    for name in names:
        original, mutant = generated_function_names(name)
        sources = dict(zip((original, mutant), _functions(index, (original, mutant)), strict=True))
        if original not in originals:
            originals[original] = without_texts(sources[original])
        if without_texts(sources[mutant]) == originals[original]:
            found.append(name)
    return found


_LINES: dict[pathlib.Path, list[str]] = {}


def _functions(index: MutantLineSpans, names: tuple[str, ...]) -> list[str]:
    path = pathlib.Path(index.mutants_path)
    if path not in _LINES:
        _LINES[path] = path.read_text(encoding="utf-8").splitlines(keepends=True)
    spans = [index.span_by_function_name[name] for name in names]
    sources = ["".join(_LINES[path][span.start - 1 : span.end]) for span in spans]
    return [_dedented(source) for source in sources]


def _dedented(source: str) -> str:
    lines = [line for line in source.splitlines(keepends=True) if not line.strip().startswith("@")]
    indent = len(lines[0]) - len(lines[0].lstrip())
    return "".join(line[indent:] if line[:indent].isspace() or not indent else line for line in lines)


def choose(size: int, seed: int, again: bool) -> None:
    """Mark the mutants that are not in the sample, so that mutmut leaves them out."""
    known: dict[str, list[str]] = json.loads(TEXTS.read_text(encoding="utf-8")) if TEXTS.exists() else {}
    files = []
    for path in sorted(walk_mutatable_files()):
        data = SourceFileMutationData(path=path)
        data.load()
        names = list(data.exit_code_by_key)
        if known.get(f"{path}:names") != names:
            known[f"{path}:names"], known[str(path)] = names, texts_of(path, names)
        files.append((path, data))
    TEXTS.write_text(json.dumps(known), encoding="utf-8")
    candidates = sorted(name for path, data in files for name in set(data.exit_code_by_key).difference(known[str(path)]))
    random.Random(seed).shuffle(candidates)
    sample = set(candidates[:size] if size else candidates)
    for _, data in files:
        for name, code in data.exit_code_by_key.items():
            if name in sample:
                retry = code == _SKIPPED or (again and tool.status_by_exit_code[code] in _UNNOTICED)
                data.exit_code_by_key[name] = None if retry else code
            elif code is None:
                data.exit_code_by_key[name] = _SKIPPED
        data.save()
    pathlib.Path("mutants/sample.json").write_text(json.dumps(sorted(sample)), encoding="utf-8")
    print(
        f"{len(sample)} of {len(candidates)} mutants are tried; {sum(len(v) for k, v in known.items() if ':' not in k)} "
        "change texts only and are left out"
    )


def wilson(hits: int, total: int) -> tuple[float, float]:
    """95% interval of a share."""
    if not total:
        return 0.0, 1.0
    z, p = 1.96, hits / total
    centre, half = p + z * z / (2 * total), z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return (centre - half) / (1 + z * z / total), (centre + half) / (1 + z * z / total)


def report(show: bool) -> None:
    """Print what became of the sample, by file and package."""
    sample = set(json.loads(pathlib.Path("mutants/sample.json").read_text(encoding="utf-8")))
    rows: dict[str, list[int]] = {}
    survivors = []
    for path in sorted(walk_mutatable_files()):
        data = SourceFileMutationData(path=path)
        data.load()
        for name in sorted(sample.intersection(data.exit_code_by_key)):
            code = data.exit_code_by_key[name]
            status = tool.status_by_exit_code[code]
            column = 4 if code is None else {"survived": 2, "no tests": 3, "timeout": 1}.get(status, 0)
            for key in (str(path), f"all of {path.parent}"):
                rows.setdefault(key, [0] * 5)[column] += 1
            if column in (2, 3):
                survivors.append(f"{name} ({status})")
    print(f"{'':52}{'killed':>8}{'timeout':>9}{'survived':>10}{'no test':>9}{'left':>6}  share killed (95% interval)")
    for key, (killed, timeout, survived, untested, left) in sorted(
        rows.items(), key=lambda row: (row[0].startswith("all"), row[0])
    ):
        done = killed + timeout + survived + untested
        low, high = wilson(killed + timeout, done)
        share = f"{(killed + timeout) / done:.1%} ({low:.1%} to {high:.1%})" if done else ""
        print(f"{key:52}{killed:8}{timeout:9}{survived:10}{untested:9}{left:6}  {share}")
    if show:
        print("\n".join(survivors))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=800, help="number of mutants; 0 for all")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--report", action="store_true", help="only print what was found so far")
    parser.add_argument("--survivors", action="store_true", help="name the survivors; `mutmut show NAME` shows one")
    parser.add_argument("--again", action="store_true", help="try the survivors again, after tests were added")
    given = parser.parse_args()
    if not given.report:
        collect = tool.collect_or_load_stats

        def collect_and_choose(*args: Any, **kwargs: Any) -> None:
            collect(*args, **kwargs)
            choose(given.sample, given.seed, given.again)

        tool.collect_or_load_stats = collect_and_choose
        tool._run([], given.processes)
    report(given.survivors)


if __name__ == "__main__":
    main()
