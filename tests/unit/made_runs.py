"""Run folders of both kinds with made-up samples, for the tests of the report. Models write hostile text in them."""

import json

import numpy as np

from nemo_forking.evaluation.comparison import compare
from nemo_forking.evaluation.convergence import convergence
from nemo_forking.evaluation.metrics import summarise
from nemo_forking.evaluation.policy import policy_rows

TAGS, ROUNDS = 6, 6
HOSTILE = (
    "</script><script>window.hacked = 1; console.error('run')</script><img src=x onerror=\"window.hacked = 1\">"
    "<!-- & &amp; \u2028 \u2029 \u0000 \u0007 \ud800 | `**9**` </pre> \u202e\n# heading {{ 7 * 7 }} $x^2$ 漢字\n"
)
KINDS = ("algebra", "number | theory")
LONG = 20_000


def make_samples(seed, chance=0.6, questions=16, tagged=True, routes=False, long=False):
    """Joined samples: question 0 always right, question 1 never, question 2 unparsable, question 3 timed out."""
    rng = np.random.default_rng(seed)
    lines = []
    for q in range(questions):
        for slot in range(TAGS):
            for round_ in range(ROUNDS):
                right = q != 1 and (q == 0 or rng.random() < chance)
                verdict = {2: "unparsable", 3: "timed out"}.get(q, "correct" if right else "wrong")
                text = f"{HOSTILE}trace {q}/{slot}/{round_} of seed {seed}. " + "x" * (LONG if long else 10)
                lines.append(
                    {
                        "question": f"q/{q} <b>",
                        "asked": f"What is <i>{q}</i> & {q} + 0? {HOSTILE}",
                        "kind": KINDS[q % 2],
                        "gold": str(q),
                        "slot": slot,
                        "round": round_,
                        "tag": slot if tagged else None,
                        "text": text + f" end {q}/{slot}/{round_}",
                        "answer": None if q in (2, 3) else str(q if right else -1),
                        "route": f"way{slot if tagged else rng.integers(3)}" if routes else None,
                        "verdict": verdict,
                        "tokens": 10 + 3 * slot + round_,
                        "finish": "length" if q == 3 else "stop",
                        "logprob": -1.0,
                        "note": "<b>no box</b>" if q == 2 else "",
                    }
                )
    return lines


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def own_tags(samples, seed, prefer=None):
    """The same samples, as if the model had drawn its tags; `prefer`: kind -> tag drawn nine times of ten."""
    rng = np.random.default_rng(seed)
    drawn = [int(rng.integers(TAGS)) for _ in samples]
    sure = rng.random(len(samples)) < (0.9 if prefer else 0)
    return [
        line | {"tag": prefer[line["kind"]] if preferred else tag}
        for line, tag, preferred in zip(samples, drawn, sure, strict=True)
    ]


def measure(home, benchmark, system, samples, seed=1, tags_mode=None, **more):
    """A measurement's folder and its row."""
    folder = home / benchmark / f"{system}-seed{seed}" / "t0.7"
    asked = {line["question"]: {key: line[key] for key in ("asked", "kind", "gold")} for line in samples}
    key = ("question", "slot", "round")
    write_lines(folder / "questions.jsonl", [{"id": name, **one} for name, one in asked.items()])
    drawn, judged = ("tag", "text", "tokens", "finish", "logprob"), ("verdict", "answer", "route", "note")
    write_lines(folder / "samples.jsonl", [{name: line[name] for name in (*key, *drawn)} for line in samples])
    write_lines(folder / "verdicts.jsonl", [{name: line[name] for name in (*key, *judged)} for line in samples])
    settings = {
        "sampling": {"rounds": ROUNDS, "temperature": 0.7, "top_p": 0.95, "max_tokens": 64, "seed": seed},
        "tags": {"mode": tags_mode or "every", "slots": TAGS, "ids": [[1]] * TAGS},
        "weights": ("a" if system == "ours" else "b") * 64,
        "engine": {"engine": "transformers", "version": "4.57.6", "dtype": "float32", "tensor_parallel": 1},
        "chat_template": "<|im_start|>user\n{question}<|im_end|>\n",
        "chat_template_sha256": "c" * 64,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "grading.json").write_text(json.dumps({"grader": {"name": "math", "math-verify": "0.9.0"}}))
    coverage_N = [5, 9, 3, 1, 1, 1] if samples[0]["tag"] is not None else None
    row = summarise(samples, TAGS, seed=seed, coverage_N=coverage_N, tags_mode=tags_mode)
    place = {"benchmark": benchmark, "system": system, "temperature": 0.7, "folder": str(folder.relative_to(home))}
    return {**row, **place, **more}


def training_lines(matched=True):
    """Lines of a training run's metrics.jsonl."""
    return [
        {
            "step": step,
            "loss": 3 / step,
            "assignment_entropy_bits": 0.1 + 2 / step if matched else None,
            "change_rate": 0.5 / step if matched else None,
            "configuration_top_mass": 1 - 0.5 / step if matched else None,
            "tag_teacher": (np.eye(3, TAGS) * step).tolist() if matched else None,
            "tag_usage": [1] * 5 + [0],
        }
        for step in range(1, 41)
    ]


def make_evaluation(folder, long=False):
    """Two systems on two benchmarks of the paper and one of our own; system ours stands on a row of the paper."""
    write_lines(folder / "training" / "metrics.jsonl", training_lines())
    benchmarks, comparisons = {}, []
    for number, name in enumerate(("aime24", "math500", "home <made>")):
        ours = make_samples(10 + number, 0.7, long=long)
        plain = make_samples(20 + number, 0.4, tagged=False, long=long)
        temperatures = {
            heat: {"pass@1": 0.6 - float(heat) / 10, "pass@6": 0.7 + float(heat) / 10} for heat in ("0.7", "1", "1.3")
        }
        trained = {"metrics": "training/metrics.jsonl", "convergence": convergence(training_lines())}
        rows = {
            "ours": [measure(folder, name, "ours", ours, temperatures=temperatures, **trained)],
            "plain": [measure(folder, name, "plain", plain)],
        }
        describe = {
            "source": f"{name}.jsonl",
            "files": [{"name": f"{name}.jsonl", "sha256": "d" * 64}],
            "questions": 16,
            "expected": {"aime24": 30, "math500": 500}.get(name),
            "answer": "math",
            "prompt": "Solve: {problem}",
            "prompt_sha256": "e" * 64,
        }
        benchmarks[name] = {"systems": rows, "describe": describe}
        for metric in ("pass@1", "cons@6"):
            found = compare(ours, plain, TAGS, metric=metric)
            pair = {"benchmark": name, "system_a": "ours", "system_b": "plain", "metric": metric}
            comparisons.append({**pair, **found})
    results = {
        "experiment": "evaluation <of> two",
        "benchmarks": benchmarks,
        "comparisons": comparisons,
        "published": {"ours": "SSFT-32B"},
        "seconds": {"sampling": 90.0, "grading": 12.5},
        "provenance": {"git revision": "0123abc", "torch": "2.13.0", "git changes": False},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results))
    return results


def make_study(folder, seeds=(1,)):
    """A study of two rules and a base model; the base has no tags."""
    rules = {"random": [], "optimal": []}
    base = []
    for seed in seeds:
        for rule, rows in rules.items():
            metrics = folder / f"seed{seed}" / rule / "metrics.jsonl"
            write_lines(metrics, training_lines(rule == "optimal"))
            samples = make_samples(seed + len(rule), 0.7 if rule == "optimal" else 0.3, routes=True)
            trained = {"metrics": str(metrics.relative_to(folder)), "convergence": convergence(training_lines())}
            rows.append(measure(folder, "many_ways", rule, samples, seed, **trained))
        samples = make_samples(seed + 50, 0.3, routes=True, tagged=False)
        base.append(measure(folder, "many_ways", "base", samples, seed))
    results = {
        "experiment": "small",
        "rules": rules,
        "base": base,
        "seconds": {"data": 1.5, "train": {"optimal": 10.0, "random": 8.0}},
        "provenance": {"git revision": "0123abc", "config": "run:\n  name: small\n"},
    }
    (folder / "results.json").write_text(json.dumps(results))
    return results


def policy_lines(steps=24, rise=0.4):
    """Lines of a policy's metrics.jsonl: the reward rises, the entropy of the tags falls."""
    return [
        {
            "step": step,
            "loss": 0.01 * (-1) ** step,
            "reward": 0.4 + rise * step / steps + 0.02 * (-1) ** step,
            "tag_entropy": np.log(TAGS) * (1 - rise * step / steps),
            "tag_probability": [1 / TAGS] * TAGS,
            "rollouts": 96 if step % 2 else 0,
            "rollouts_reused": 0 if step % 2 else 96,
        }
        for step in range(1, steps + 1)
    ]


def make_policy_study(folder, seeds=(1,), policies=("gfpo", "grpo")):
    """A study whose rule optimal is reinforced: half of the samples right before, nearly all after."""
    results = make_study(folder, seeds)
    rows = {name: [] for policy in policies for name in (policy, f"{policy}_every")}
    measured = {"optimal_own": [], **rows}
    for place, seed in enumerate(seeds):
        every = results["rules"]["optimal"][place]
        before = own_tags(make_samples(seed + 60, 0.5, routes=True), seed)
        trained = {"metrics": every["metrics"], "convergence": every["convergence"]}
        start = measure(folder, "many_ways", "optimal_own", before, seed, "own", **trained)
        measured["optimal_own"].append(start)
        for number, policy in enumerate(policies):
            metrics = folder / f"seed{seed}" / policy / "metrics.jsonl"
            write_lines(metrics, policy_lines(rise=0.5 - 0.2 * number))
            trained = {"metrics": str(metrics.relative_to(folder)), "convergence": convergence(policy_lines())}
            samples = make_samples(seed + 70 + number, 0.95 - 0.2 * number, routes=True)
            samples = own_tags(samples, seed, dict(zip(KINDS, (1, 4), strict=True)))
            measured[policy].append(measure(folder, "many_ways", policy, samples, seed, "own", **trained))
            samples = make_samples(seed + 80 + number, 0.7, routes=True)
            measured[f"{policy}_every"].append(
                measure(folder, "many_ways", f"{policy}_every", samples, seed, **trained)
            )
            asked = measured[policy][-1], measured[f"{policy}_every"][-1]
            results.setdefault(policy, []).append(policy_rows(*asked, start, every, home=folder))
    pairs = {name: rows[0] for name, rows in measured.items()}
    results["comparisons"] = [
        {
            "benchmark": "many_ways",
            "system_a": "optimal",
            "system_b": name,
            "metric": "pass@1",
            "a": 0.5,
            "b": row["pass@1"],
        }
        for name, row in pairs.items()
    ]
    results |= {"policies": measured, "policy_names": list(policies)}
    (folder / "results.json").write_text(json.dumps(results))
    return results


def make_old_study(folder):
    """A study as it was before slots, verdicts and measurement folders."""
    samples = [
        {key: value for key, value in line.items() if key not in ("slot", "verdict", "note", "logprob")}
        | {"correct": line["verdict"] == "correct"}
        for line in make_samples(3, questions=4, routes=True)
    ]
    write_lines(folder / "optimal" / "samples.jsonl", samples)
    row = summarise(make_samples(3, questions=4, routes=True), TAGS, seed=1)
    later = ("verdicts", "tag_choice", "diversity", "tags_mode", "pass@k_standard_error", "cons@32")
    row = {key: value for key, value in row.items() if key not in later}
    row["per_tag"] = [{k: v for k, v in tag.items() if k != "token_quantiles"} for tag in row["per_tag"]]
    results = {"experiment": "old", "rules": {"optimal": [row | {"samples": "optimal/samples.jsonl"}]}}
    (folder / "results.json").write_text(json.dumps(results))
    return results
