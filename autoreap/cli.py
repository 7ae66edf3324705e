"""Parse, call one function, map errors to exit codes. Heavy imports happen in the command that needs them."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoreap import __version__
from autoreap.candidate import PRESETS, RANKINGS, Candidate, preset_values
from autoreap.errors import AutoreapError, InputError
from autoreap.wording import size_text

if TYPE_CHECKING:
    from autoreap.plan import BaseModel, ModelShape, PruningPlan
    from autoreap.saliency import Saliency

Arguments = argparse.Namespace
Command = Callable[[Arguments], tuple[dict[str, Any], str]]  # -> (the JSON object, the text for people)
_USERS_PATHS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
_COMPONENTS = {"thinker": ("thinker",), "talker": ("talker",), "both": ("thinker", "talker")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 1 a failure in the work, 2 bad input, 130 interrupted."""
    options = _parser().parse_args(arguments)
    _quiet_libraries()
    try:
        document, text = options.command(options)
    except AutoreapError as error:
        print(f"autoreap: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"autoreap: {error.filename or 'input/output'}: {error.strerror or error}", file=sys.stderr)
        return InputError.exit_code if isinstance(error, _USERS_PATHS) else AutoreapError.exit_code
    except KeyboardInterrupt:
        print("autoreap: interrupted", file=sys.stderr)
        return 130
    if options.json:
        from autoreap.report import to_json

        print(to_json(document))
    elif text:
        print(text)
    return 0


def _quiet_libraries() -> None:
    """Loading bars and advice of libraries would drown the few lines that matter."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


# ---------------------------------------------------------------- commands


def _search(options: Arguments) -> tuple[dict[str, Any], str]:
    from autoreap import jobs
    from autoreap.front import plan_of
    from autoreap.report import front_table, plan_summary

    result = jobs.search(
        options.space,
        jobs.SearchOptions(
            model=options.model,
            study=options.study,
            trials=options.trials,
            hours=options.hours,
            storage=options.storage,
            seed=options.seed,
        ),
    )
    study, shipped = result.study, result.shipped
    lines = [front_table(result.front, study.user_attrs["baseline"]), ""]
    lines += [f"front    {result.picture}", f"report   {result.report}"] if result.picture else []
    if shipped:
        kept = plan_summary(plan_of(study, shipped.trial))["thinker"]
        lines += [
            f"shipped  {shipped.path}",
            f"         trial {shipped.trial} with {kept['experts']} experts in {kept['layers']} layers",
            f"         why: {shipped.reason}",
            f"         stock transformers loads it; all {shipped.num_compared} answers equal the trial's",
        ]
        for metric, (difference, low, high) in shipped.against_baseline.items():
            points = f"{100 * difference:+.2f} points [{100 * low:+.2f}, {100 * high:+.2f}]"
            lines.append(f"         {metric} {points} against the unpruned model, paired")
    document: dict[str, Any] = {"study": study.study_name, "points": [point.as_dict() for point in result.front]}
    if shipped:
        document["shipped"] = {**vars(shipped), "path": str(shipped.path)}
    return document, "\n".join(lines)


def _pareto(options: Arguments) -> tuple[dict[str, Any], str]:
    from autoreap.front import objectives_of, open_study, pareto, points_of
    from autoreap.report import front_table, plot_front

    study = open_study(options.study, options.storage)
    front = pareto(points_of(study), objectives_of(study))
    if not front:
        raise InputError("has no finished trial yet", where=f"study {options.study}", fix="search longer")
    if options.png:
        plot_front(study, options.png)
    document = {
        "study": study.study_name,
        "points": [point.as_dict() for point in front],
        "baseline": study.user_attrs["baseline"],
    }
    return document, front_table(front, study.user_attrs["baseline"])


def _report(options: Arguments) -> tuple[dict[str, Any], str]:
    from autoreap.front import open_study, points_of
    from autoreap.report import write_report

    study = open_study(options.study, options.storage)
    if not points_of(study):
        raise InputError("has no finished trial yet", where=f"study {options.study}", fix="search longer")
    write_report(study, options.output)
    return {"report": str(options.output)}, f"wrote {options.output}"


def _select(options: Arguments) -> tuple[dict[str, Any], str]:
    from autoreap.front import open_study, select

    study = open_study(options.study, options.storage)
    max_size = _bytes(options.max_size) if options.max_size else None
    point, reason = select(study, options.rule, max_wer_increase=options.max_wer_increase, max_size_bytes=max_size)
    document = {**point.as_dict(), "rule": options.rule, "reason": reason}
    return document, f"trial {point.trial}, {size_text(point.size_bytes)}: {reason}"


def _materialise(options: Arguments) -> tuple[dict[str, Any], str]:
    from autoreap import jobs
    from autoreap.plan import load_plan

    if (options.plan is None) == (options.trial is None):
        raise InputError("needs STUDY with --trial, or MODEL with --plan", where="materialise")
    facts: dict[str, Any] = {}
    if options.plan is not None:
        model, plan = options.source, load_plan(options.plan)
    else:
        from autoreap.front import open_study, plan_of, points_of

        study = open_study(options.source, options.storage)
        plan = plan_of(study, options.trial)
        model = options.model or plan.base_model.name
        point = next(point for point in points_of(study) if point.trial == options.trial)
        facts = {"metrics": point.metrics, "trial": f"{study.study_name}/{options.trial}"}
    return _write(jobs.describe(model), plan, options, facts)


def _write(
    described: Any, plan: "PruningPlan", options: Arguments, facts: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    from autoreap.materialise import materialise, plan_rewrite
    from autoreap.report import plan_summary

    if options.dry_run:
        rewrite = plan_rewrite(described.checkpoint, plan)
    else:
        rewrite = materialise(described.checkpoint.path, plan, _target(options), facts=facts)
    document = {
        "path": None if options.dry_run else str(options.output),
        "size_bytes": rewrite.size_bytes,
        "num_parameters": rewrite.num_parameters,
        "num_tensors": len(rewrite.tensors),
        "num_dropped": rewrite.num_dropped,
        "plan": plan_summary(plan),
    }
    before = described.checkpoint.num_bytes
    verb = "would write" if options.dry_run else f"wrote {options.output}:"
    text = (
        f"{verb} {size_text(rewrite.size_bytes)} ({rewrite.size_bytes / before:.1%} of {size_text(before)}), "
        f"{rewrite.num_parameters:,} parameters in {len(rewrite.tensors):,} tensors"
    )
    return document, text


def _calibrate(options: Arguments) -> tuple[dict[str, Any], str]:
    from autoreap import jobs

    components = _COMPONENTS[options.component]
    data = jobs.read_calibration(_calibration_files(options))
    loaded = jobs.load(jobs.describe(options.model), speech="talker" in components)
    saliency = jobs.calibrated(loaded, data, components)
    saliency.save(options.output)
    tokens = {m: sums.tokens for m, sums in saliency.components[components[0]].modalities.items()}
    return {"path": str(options.output), "tokens": tokens}, f"wrote {options.output}: tokens {tokens}"


def _calibration_files(options: Arguments) -> dict[str, Path]:
    files = {"audio": options.audio, "video": options.video, "mixed": options.mixed}
    return {modality: path for modality, path in files.items() if path is not None}


def _plan(options: Arguments) -> tuple[dict[str, Any], str]:
    from autoreap import jobs
    from autoreap.report import plan_summary
    from autoreap.saliency import load_saliency

    saliency = load_saliency(options.saliency_file)
    described = jobs.describe(options.model or saliency.provenance["model"])
    plan = _planned(options, saliency, described.shape, described.base_model)
    plan.save(options.output)
    summary = plan_summary(plan)
    return {"path": str(options.output), **summary}, f"wrote {options.output}: {summary}"


def _planned(options: Arguments, saliency: "Saliency", shape: "ModelShape", base_model: "BaseModel") -> "PruningPlan":
    """The plan that the planning options ask for."""
    from autoreap.plan import make_plan, without_layers

    candidate = _candidate(options, shape)
    if options.layers is None:
        return make_plan(candidate, saliency, shape, base_model)
    plan = make_plan(replace(candidate, layers_cut=0, talker_layers_cut=0), saliency, shape, base_model)
    for component in _COMPONENTS[options.component]:
        plan = without_layers(plan, component, options.layers, shape)
    return plan


def _candidate(options: Arguments, shape: "ModelShape") -> Candidate:
    """The values that the planning options name: the preset's, and explicit ones over them."""
    given: dict[str, Any] = {}
    for component in _COMPONENTS[options.component]:
        if component not in shape.components:
            raise InputError(f"this model has no {component}", where="--component")
        retention, layers_cut = None, None
        if options.preset:
            retention, layers_cut = preset_values(options.preset, shape.components[component].num_layers)
        prefix = "" if component == "thinker" else f"{component}."
        given[f"{prefix}retention"] = retention if options.retention is None else options.retention
        given[f"{prefix}layers_cut"] = layers_cut if options.layers_cut is None else options.layers_cut
    given |= {"lambda": options.lambda_, "beta": options.beta, "saliency": options.saliency, "seed": options.seed}
    given["strip_vision"] = options.strip_vision or bool(options.preset)
    return Candidate.from_parameters({name: value for name, value in given.items() if value is not None})


def _evaluate(options: Arguments) -> tuple[dict[str, Any], str]:
    from autoreap import jobs
    from autoreap.plan import load_plan

    plan = load_plan(options.plan) if options.plan else None
    described = jobs.describe(options.model)
    evaluation = jobs.evaluated(described, options.evals, plan, split=options.split, batch_size=options.batch_size)
    if options.outcomes:
        evaluation.save_outcomes(options.outcomes)
    metrics = evaluation.metrics()
    lines = [
        f"{name:<20} {m['value']:.2%} [{m['low']:.2%}, {m['high']:.2%}]  {m['numerator']}/{m['denominator']}, "
        f"{m['num_samples']} samples, {m['num_failed']} failed"
        for name, m in metrics.items()
    ]
    return {"metrics": metrics}, "\n".join(lines)


def _prune(options: Arguments) -> tuple[dict[str, Any], str]:
    from autoreap import jobs
    from autoreap.materialise import check_target

    described = jobs.describe(options.model)
    _candidate(options, described.shape)
    data = jobs.read_calibration(_calibration_files(options))
    if not options.dry_run:
        check_target(_target(options), described.checkpoint.path, size_bytes=0)
    components = _COMPONENTS[options.component]
    saliency = jobs.calibrated(jobs.load(described, speech="talker" in components), data, components)
    return _write(described, _planned(options, saliency, described.shape, described.base_model), options, {})


def _target(options: Arguments) -> Path:
    if options.output is None:
        raise InputError("needs -o OUT, or --dry-run", where="-o")
    output: Path = options.output
    return output


def _inspect(options: Arguments) -> tuple[dict[str, Any], str]:
    from autoreap import jobs
    from autoreap.sizes import component_sizes

    described = jobs.describe(options.model)
    sizes = component_sizes(described.checkpoint, described.family)
    rows = [
        f"{name:<18}{s.num_parameters:>18,}{size_text(s.num_bytes):>14}{s.num_tensors:>9,}" for name, s in sizes.items()
    ]
    header = f"{'component':<18}{'parameters':>18}{'bytes':>14}{'tensors':>9}"
    document = {
        "model": options.model,
        "fingerprint": described.checkpoint.fingerprint,
        "components": {name: vars(size) for name, size in sizes.items()},
    }
    return document, "\n".join([header, *rows, f"fingerprint {described.checkpoint.fingerprint}"])


# ---------------------------------------------------------------- parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="autoreap", description="Find the smallest Qwen3-Omni that still hears well.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_study_commands(commands)
    _add_model_commands(commands)
    return parser


def _add_study_commands(commands: Any) -> None:
    """Commands that start, read or use a study."""
    add = _command(commands, "search", _search, "start or resume a study", "autoreap search search_spaces/tiny.yaml")
    add("space", type=Path, metavar="SPACE", help="a file of search_spaces/")
    add("--model", default="tiny", help="a directory, a hub name, or tiny (default)")
    add("--study", help="name of the study (default: SPACE-MODEL); the same name resumes it")
    add("--trials", type=_positive, help="finished trials to reach in all (default: the space's)")
    add("--hours", type=_hours, help="stop after so many hours")
    add("--storage", help="Optuna storage URL (default: sqlite:///mlruns/studies.db)")
    add("--seed", type=int, help="seed of the sampler (default: the space's)")

    add = _command(
        commands, "pareto", _pareto, "print the front of a study", "autoreap pareto tiny-tiny --png front.png"
    )
    _study_options(add)
    add("--png", type=Path, help="draw it, too")

    add = _command(commands, "report", _report, "write the morning report", "autoreap report tiny-tiny -o report.html")
    _study_options(add)
    add("-o", "--output", type=Path, default=Path("report.html"), help="HTML file (default: report.html)")

    add = _command(
        commands,
        "select",
        _select,
        "pick one trial by a rule",
        "autoreap select tiny-tiny --rule smallest --max-wer-increase 0.5",
    )
    _study_options(add)
    add("--rule", choices=("knee", "smallest", "best"), default="knee", help="default: knee")
    add("--max-wer-increase", type=float, metavar="POINTS", help="for smallest: percentage points over the baseline")
    add("--max-size", metavar="SIZE", help="for best: 20GB, 900MB")

    for name in ("materialise", "materialize"):
        add = _command(
            commands, name, _materialise, "write a pruned checkpoint", f"autoreap {name} tiny-tiny --trial 7 -o pruned"
        )
        add("source", metavar="STUDY|MODEL", help="a study with --trial, or a model with --plan")
        add("--trial", type=int, help="number of the trial")
        add("--plan", type=Path, help="a plan.json")
        add("--model", help="where the base model is now (default: where the study had it)")
        add("--storage", help="Optuna storage URL")
        _output_options(add)


def _add_model_commands(commands: Any) -> None:
    """Commands that work on a model alone."""
    add = _command(
        commands,
        "calibrate",
        _calibrate,
        "measure saliency once",
        "autoreap calibrate tiny --audio calibration/tiny/audio.jsonl -o saliency.safetensors",
    )
    add("model", metavar="MODEL", help="a directory, a hub name, or tiny")
    _calibration_options(add)
    add("-o", "--output", type=Path, default=Path("saliency.safetensors"), help="default: saliency.safetensors")

    add = _command(
        commands,
        "plan",
        _plan,
        "decide what is kept",
        "autoreap plan saliency.safetensors --retention 0.5 --layers-cut 1 -o plan.json",
    )
    add("saliency_file", type=Path, metavar="SALIENCY", help="what calibrate wrote")
    add("--model", help="where the model is now (default: where it was calibrated)")
    _planning_options(add)
    add("-o", "--output", type=Path, default=Path("plan.json"), help="default: plan.json")

    add = _command(
        commands,
        "evaluate",
        _evaluate,
        "score a model or a plan",
        "autoreap evaluate tiny --evals evals/tiny.yaml --split report",
    )
    add("model", metavar="MODEL", help="a directory, a hub name, or tiny")
    add("--plan", type=Path, help="score the model under this plan")
    add("--evals", type=Path, required=True, help="a file of evals/")
    add("--split", choices=("search", "report"), default="search", help="default: search")
    add("--batch-size", type=_positive, default=32, help="utterances decoded together (default: 32)")
    add("--outcomes", type=Path, metavar="FILE", help="write one JSON line an utterance")

    add = _command(
        commands,
        "prune",
        _prune,
        "calibrate, plan and materialise in one go",
        "autoreap prune tiny --preset medium --audio calibration/tiny/audio.jsonl -o pruned",
    )
    add("model", metavar="MODEL", help="a directory, a hub name, or tiny")
    _calibration_options(add)
    _planning_options(add, component=False)
    _output_options(add)

    add = _command(commands, "inspect", _inspect, "parameters and bytes per component", "autoreap inspect tiny")
    add("model", metavar="MODEL", help="a directory, a hub name, or tiny")


def _command(commands: Any, name: str, run: Command, summary: str, example: str) -> Callable[..., Any]:
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary.capitalize() + ".",
        epilog=f"example: {example}",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, nothing else there")
    parser.set_defaults(command=run)
    add: Callable[..., Any] = parser.add_argument
    return add


def _study_options(add: Callable[..., Any]) -> None:
    add("study", metavar="STUDY", help="name of a study")
    add("--storage", help="Optuna storage URL (default: sqlite:///mlruns/studies.db)")


def _output_options(add: Callable[..., Any]) -> None:
    add("-o", "--output", type=Path, help="directory to write; must be new")
    add("--dry-run", action="store_true", help="say what would be written, from headers alone")


def _calibration_options(add: Callable[..., Any]) -> None:
    add("--audio", type=Path, required=True, help="JSONL of audio rows")
    add("--video", type=Path, help="JSONL of video or image rows")
    add("--mixed", type=Path, help="JSONL of rows with both")
    add("--component", choices=tuple(_COMPONENTS), default="thinker", help="default: thinker")


def _planning_options(add: Callable[..., Any], *, component: bool = True) -> None:
    add("--preset", choices=tuple(PRESETS), help="a recommended set of values; explicit ones go over it")
    add("--retention", type=float, help="fraction of experts kept in each layer")
    add("--lambda", dest="lambda_", type=float, help="weight of the contrast term (default 1)")
    add("--beta", type=float, help="how much of the video saliency it subtracts (default 1)")
    add("--saliency", choices=RANKINGS, help="ranking of experts (default affinity)")
    add("--seed", type=int, help="of the random ranking (default 0)")
    add("--layers-cut", type=int, help="how many layers to cut, most similar first")
    add("--layers", type=_indices, metavar="12,16", help="cut exactly these layers")
    add("--strip-vision", action="store_true", help="drop the vision tower")
    if component:
        add("--component", choices=tuple(_COMPONENTS), default="thinker", help="default: thinker")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be an integer above 0, got {text!r}")
    return int(text)


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not hours > 0:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return hours


def _indices(text: str) -> list[int]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"must be layer numbers such as 12,16, got {text!r}")
    return [int(part) for part in text.split(",")]


def _bytes(text: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?)B?\s*", text, re.IGNORECASE)
    if not match:
        raise InputError(f"must be a size such as 20GB, got {text!r}", where="--max-size")
    return float(match[1]) * 10.0 ** {"": 0, "K": 3, "M": 6, "G": 9, "T": 12}[match[2].upper()]


if __name__ == "__main__":
    sys.exit(main())
