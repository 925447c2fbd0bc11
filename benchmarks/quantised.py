"""What a model loses when it is written in 8 or 4 bits, how long that takes and in how much memory.

    python -m benchmarks.quantised MODEL [--work .quantised] [--beside PYTHON]
    python -m benchmarks.quantised --page             write the table of docs/quantised.md again, without measuring

GPTQ is calibrated on every other page of these docs, and all are scored on the rest: bits for each byte of text, as
transformers runs the folders. MODEL is the folder that `python -m benchmarks.real` makes (SmolLM2-135M-Instruct), or another.
`--beside` is a Python that has llm-compressor, whose GPTQ is then scored on the same texts.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.pages import figures, keep, machine, table

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "quantised.md"
BEGIN, END = "<!-- table: benchmarks/quantised.py -->", "<!-- end of table -->"
GROUP, ROWS, LONGEST = "64", 32, 256
FORMS = {
    "w8a16": ("--scheme", "w8a16"),
    "fp8": ("--scheme", "fp8"),
    "w4a16": ("--scheme", "w4a16", "--group", GROUP),
    "w4a16-gptq": ("--scheme", "w4a16-gptq", "--group", GROUP, "--data", "stats"),
}
BESIDE = """
import sys, torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from transformers import AutoModelForCausalLM, AutoTokenizer
import json
model, out, rows = sys.argv[1:]
words = AutoTokenizer.from_pretrained(model)
module = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
args = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=GROUP)
scheme = QuantizationScheme(targets=["Linear"], weights=args)
data = Dataset.from_list([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in json.load(open(rows))])
gptq = GPTQModifier(config_groups={"group_0": scheme}, ignore=["lm_head"])
oneshot(model=module, dataset=data, recipe=gptq, max_seq_length=LONGEST, num_calibration_samples=len(data))
module.save_pretrained(out, save_compressed=True)
words.save_pretrained(out)
""".replace("GROUP", GROUP, 1).replace("LONGEST", str(LONGEST), 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quantised", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--work", type=Path, default=Path(".quantised"), help="where models are kept")
    parser.add_argument("--beside", help="a Python that has llm-compressor")
    parser.add_argument("--page", action="store_true", help="only write the table, from what was measured")
    arguments = parser.parse_args()
    if arguments.model:
        measure(arguments.model.resolve(), arguments.work.resolve(), arguments.beside)
    if arguments.model or arguments.page:
        PAGE.write_text(page(figures("quantised"), PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def measure(model: Path, work: Path, beside: str | None) -> None:
    """All of it. Folders that are there already from an earlier run are not made again, only scored."""
    work.mkdir(exist_ok=True)
    texts = write_texts(work)
    data: dict[str, Any] = figures("quantised") | {"machine": machine(), "model": model_name(model), "rows": {}}
    data["plain"] = {"bits": score(model, texts), "size": weights(model)}
    print(data["plain"], flush=True)
    steps = {"calibrate": ("calibrate", model, "stats", "--data", "calibration.jsonl", "--longest", str(LONGEST))}
    steps |= {name: ("export", "quantized", model, name, *how) for name, how in FORMS.items()}
    for name, words in steps.items():
        found = run([sys.executable, "-m", "mergery", *map(str, words), "--threads", "1", "--quiet"], work)
        data["rows"][name] = found
        if name in FORMS:
            found |= {"bits": score(work / name, texts), "size": weights(work / name)}
        print(name, found, flush=True)
        keep("quantised", data)
    if beside:
        (work / "rows.json").write_text(json.dumps(tokens(model, work / "calibration.jsonl")))
        (work / "beside.py").write_text(BESIDE)
        found = run([beside, str(work / "beside.py"), str(model), "beside", "rows.json"], work)
        data["rows"]["llm-compressor"] = found | {
            "bits": score(work / "beside", texts),
            "size": weights(work / "beside"),
        }
        print(data["rows"]["llm-compressor"], flush=True)
        keep("quantised", data)


def model_name(model: Path) -> str:
    found = re.search(r"[\w.-]+\.gguf", (model / "README.md").read_text()) if (model / "README.md").exists() else None
    return found[0].removesuffix(".gguf") if found else model.name


def write_texts(work: Path) -> Path:
    """Paragraphs of every other page to calibrate on, and those of the rest to be scored on."""
    found: tuple[list[str], list[str]] = ([], [])
    for number, path in enumerate(sorted((ROOT / "docs").glob("*.md"))):
        parts = re.split(r"\n#+ ", path.read_text(encoding="utf-8"))
        found[number % 2].extend(part for part in parts if len(part) > 400)
    for name, parts in zip(("calibration", "scored"), found, strict=True):
        lines = [json.dumps({"text": part[:1000]}) + "\n" for part in parts[:ROWS]]
        (work / f"{name}.jsonl").write_text("".join(lines))
    return work / "scored.jsonl"


def tokens(model: Path, path: Path) -> list[list[int]]:
    """The rows of tokens that a calibration has, for another tool."""
    from transformers import AutoTokenizer

    words, rows = AutoTokenizer.from_pretrained(model), []
    for line in path.read_text().splitlines():
        ids = words(json.loads(line)["text"]).input_ids
        rows += [ids[at : at + LONGEST] for at in range(0, len(ids), LONGEST) if len(ids) - at > 1]
    return rows


def run(command: list[str], work: Path) -> dict[str, float]:
    """Run a command, and what it took: processor seconds and memory."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run(
        [sys.executable, "-c", MEASURED, *command], cwd=work, check=True, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(seconds, 1), "memory": int(out.stdout.split()[-1]) * 1024}


MEASURED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def score(folder: Path, texts: Path) -> float:
    """Bits for each byte of the texts."""
    from mergery import api
    from mergery.evaluation import EvaluationOptions

    found = api.evaluate(folder, texts, options=EvaluationOptions()).tasks[0].scores
    return round(found["bits_per_byte"], 4)


def weights(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def page(data: dict[str, Any], text: str) -> str:
    """The page with the table of the figures in its place."""
    plain, rows = data["plain"], data["rows"]
    lines = [["as it was, float32", f"{plain['size'] / 1e6:.0f} MB", f"{plain['bits']:.3f}", "", "", ""]]
    names = {"llm-compressor": "`w4a16`, GPTQ by llm-compressor"}
    for name, found in rows.items():
        if "bits" in found:
            more = found["bits"] / plain["bits"] - 1
            lines.append(
                [names.get(name, f"`{name}`"), f"{found['size'] / 1e6:.0f} MB", f"{found['bits']:.3f}", f"{100 * more:+.1f} %",
                 f"{found['seconds']:.0f} s", f"{found['memory'] / 1e6:.0f} MB"]
            )  # fmt: skip
    beside = "; of llm-compressor, time and memory are with that" if "llm-compressor" in rows else ""
    calibrated = f"{rows['calibrate']['seconds']:.0f} s and {rows['calibrate']['memory'] / 1e6:.0f} MB"
    told = [
        "Bits that a byte of text takes, as transformers runs each folder; what is rounded by data has seen other pages of the",
        f"same docs. {data['model']}, whose embeddings stay in float32, in groups of {GROUP}; on {data['machine']},",
        f"with one worker. Calibrating took {calibrated} beforehand{beside}.",
    ]
    columns = ["", "weights", "bits a byte", "more", "processor time", "memory"]
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return "\n".join([before.rstrip("\n"), "", BEGIN, "", *table(columns, lines), "", *told, "", END]) + after


if __name__ == "__main__":
    main()
