"""Trains a denoiser, a causal LM and heads on the GPU; leaves float16 exports. Usage: gpu.py smoke|main OUT"""
import json, os, subprocess, sys, time, glob
from pathlib import Path
HERE = Path(__file__).resolve().parent
mode, OUT = sys.argv[1], Path(sys.argv[2])
RUNS = Path(os.environ.get("RUNS", "/tmp/runs"))
FAST = os.environ.get("FAST") == "1"
MP = os.environ.get("MP", "bf16")
env = {**os.environ, "PYTHONPATH": f"{HERE}:{os.environ.get('PYTHONPATH','')}", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "3"}
T0 = time.time()
def say(*a): print(f"[{time.time()-T0:6.1f}s]", *a, flush=True)
def go(name, *args):
    log = open(RUNS / f"{name}.out", "w")
    return name, subprocess.Popen([sys.executable, "-m", "edlm", *map(str, args)], env=env, stdout=log, stderr=subprocess.STDOUT, cwd=HERE)
def wait(jobs, limit):
    end = time.time() + limit
    for name, p in jobs:
        try: rc = p.wait(max(1, end - time.time()))
        except subprocess.TimeoutExpired: p.kill(); rc = "killed"
        tail = (RUNS / f"{name}.out").read_text()[-400:].strip().splitlines()[-2:]
        say(name, "rc", rc, tail)
def log_of(name):
    rows = [json.loads(l) for l in open(RUNS / name / "log.jsonl")] if (RUNS / name / "log.jsonl").exists() else []
    return rows
def show(name):
    rows = log_of(name)
    tr = [r for r in rows if r.get("kind", r.get("split", "train")) == "train"]
    va = [r for r in rows if r.get("kind", r.get("split")) == "valid"]
    say(name, "last", rows[-2:] if rows else None)
    for r in va[-6:]: print("   ", {k: (round(v, 4) if isinstance(v, float) else v) for k, v in r.items()}, flush=True)
def shifted():
    sys.path.insert(0, str(HERE))
    import torch
    from dataclasses import replace
    from edlm.corpus.prepared import PreparedCorpus
    for n in ("t", "both"):
        c = PreparedCorpus.load(HERE / n); s = c.train.tokens.reshape(-1)
        b = torch.cat([s[k:][: (len(s) - k) // 128 * 128].reshape(-1, 128) for k in (0, 32, 64, 96)])
        replace(c, train=replace(c.train, tokens=b, num_tokens=b.numel(), num_dropped=0, num_characters=c.train.num_characters * 4)).save(RUNS / f"{n}4")
M = lambda **kw: sum(([f"--model.{k}", v] for k, v in kw.items()), [])
T = lambda **kw: sum(([f"--trainer.{k}", v] for k, v in kw.items()), [])
DEN = dict(hidden_size=256, num_hidden_layers=8, num_attention_heads=4, intermediate_size=768, max_position_embeddings=128, global_attn_every_n_layers=1)
VAR = {"a": dict(attention_dropout=0.1, mlp_dropout=0.1, embedding_dropout=0.1), "b": {}}
AR = dict(hidden_size=256, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=4, intermediate_size=768, max_position_embeddings=129, tie_word_embeddings="true", attention_dropout=0.1)
BS = 8 if FAST else 256
common = dict(batch_size=BS, mixed_precision=MP, checkpoint_every=10**6, keep_checkpoints=1, seed=0)
RUNS.mkdir(parents=True, exist_ok=True)
shifted(); say("corpora")
if mode == "smoke":
    lim = 0.25 if not FAST else 0.3
    jobs = [go(f"s_{v}", "train", "denoiser", "--corpus", RUNS / "both4", "--model_type", "modernbert", *M(**{**DEN, **d}), *T(output_dir=RUNS / f"s_{v}", num_steps=4000, max_minutes=lim, log_every=10, valid_every=100000, valid_batches=1, **common)) for v, d in VAR.items()]
    jobs.append(go("s_ar", "train", "autoregressive", "--corpus", RUNS / "both4", "--model_type", "llama", *M(**AR), *T(output_dir=RUNS / "s_ar", num_steps=4000, max_minutes=lim, log_every=10, valid_every=100000, valid_batches=1, **common)))
    wait(jobs, 120)
    for n, _ in jobs: show(n)
    jobs = [go("s_head", "train", "energy", "--corpus", RUNS / "t4", "--denoiser", RUNS / "s_a" / "final", "--head.form", "normalized", "--objective.loss", "likelihood", "--objective.group_sizes", "[1,2,4]", *T(output_dir=RUNS / "s_head", num_steps=100, max_minutes=0.15, log_every=10, valid_every=1000, valid_batches=1, **{**common, "batch_size": BS // 4 or 2}))]
    wait(jobs, 60); show("s_head")
    sys.exit()
S1, S2, SAR, SH = (int(x) for x in os.environ["STEPS"].split(","))
L1, L2, LH = (float(x) for x in os.environ["LIMITS"].split(","))
den = [go(f"d1_{v}", "train", "denoiser", "--corpus", RUNS / "both4", "--model_type", "modernbert", *M(**{**DEN, **d}), *T(output_dir=RUNS / f"d1_{v}", num_steps=S1, max_minutes=L1, learning_rate=2e-3, warmup_steps=min(200, S1), decay="none", ema_decay=0.998, weight_decay=0.1, log_every=50, valid_every=max(1, S1 // 6), valid_batches=2, **common)) for v, d in VAR.items()]
ar = [go("ar", "train", "autoregressive", "--corpus", RUNS / "both4", "--model_type", "llama", *M(**AR), *T(output_dir=RUNS / "ar", num_steps=SAR, max_minutes=L1 + L2, learning_rate=2e-3, warmup_steps=min(100, SAR), decay="linear", ema_decay=0.99, weight_decay=0.1, log_every=50, valid_every=max(1, SAR // 6), valid_batches=2, **common))]
wait(den, L1 * 60 + 60)
den2 = [go(f"d2_{v}", "train", "denoiser", "--corpus", RUNS / "t4", "--start_from", RUNS / f"d1_{v}" / "final", *T(output_dir=RUNS / f"d2_{v}", num_steps=S2, max_minutes=L2, learning_rate=2e-3, warmup_steps=1, decay="linear", ema_decay=0.998, weight_decay=0.1, log_every=50, valid_every=max(1, S2 // 5), valid_batches=2, **{**common, "seed": 1})) for v in VAR]
wait(den2, L2 * 60 + 60); wait(ar, 1)
for n in ["d1_a", "d1_b", "d2_a", "d2_b", "ar"]: show(n)
def last_valid(n):
    va = [r for r in log_of(n) if "valid" in (r.get("kind"), r.get("split"))]
    return va[-1]["loss"] if va else 99.0
best = min(VAR, key=lambda v: last_valid(f"d2_{v}") if (RUNS / f"d2_{v}" / "final").exists() else 99.0)
D = RUNS / f"d2_{best}" / "final"; say("best", best)
def head(name, orders, blind=False):
    return go(name, "train", "energy", "--corpus", RUNS / "t4", "--denoiser", D, "--head.form", "normalized", "--head.blind", str(blind).lower(), "--objective.loss", "likelihood", "--objective.num_steps", "[2,3,4,5,6,8]", "--objective.orders", orders, "--objective.group_sizes", "[1,2,4]", *T(output_dir=RUNS / name, num_steps=SH, max_minutes=LH, learning_rate=1e-3, warmup_steps=min(50, SH), decay="linear", ema_decay=0.995, log_every=50, valid_every=max(1, SH // 4), valid_batches=4, **{**common, "batch_size": max(2, BS // 4)}))
heads = [head("head", "[bisecting]"), head("head_blind", "[bisecting]", True), head("head_random", "[random]")]
wait(heads, LH * 60 + 40)
for n, _ in heads: show(n)
exp = [n for n in ("head", "head_blind", "head_random") if (RUNS / n / "final").exists()]
en = {n: RUNS / n / "final" for n in exp}
if (RUNS / "ar" / "final" / "energy").exists(): en["autoregressive"] = RUNS / "ar" / "final" / "energy"
X = go("export", "export", "--denoiser", D, "--energies", json.dumps({k: str(v) for k, v in en.items()}), "--corpus", HERE / "t", "--output_dir", RUNS / "export")
wait([X], 60)
(RUNS / "logs").mkdir(exist_ok=True)
for n in ["d1_a", "d1_b", "d2_a", "d2_b", "ar", *exp]:
    if (RUNS / n / "log.jsonl").exists(): (RUNS / "logs" / f"{n}.jsonl").write_text((RUNS / n / "log.jsonl").read_text())
OUT.mkdir(parents=True, exist_ok=True)
subprocess.run(f"cd {RUNS} && tar czf - logs $( [ -d export ] && echo export || echo $(basename $(dirname {D}))/final ) | split -b 15500k - {OUT}/export.tgz.", shell=True)
say("packed", [(f.name, f.stat().st_size) for f in OUT.iterdir()])
