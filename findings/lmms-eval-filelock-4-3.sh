#!/usr/bin/env bash
# lmms-eval 0.7.3 with filelock 4.3.1, compared with filelock 4.2.12 (torch
#   2.13.0, datasets 5.2.0). Done: simple_evaluate() of its "dummy" model on one
#   question of a task in a folder, with only the packages that this imports.
# Seen: with 4.3.1 it ends with ModuleNotFoundError: its evaluator imports a
#   private module of filelock, which its requirements do not name at all.
# Expected: an evaluation, or a bound on filelock's version that pip follows.
# Output seen:
#   filelock 4.2.12: evaluated ours
#   filelock 4.3.1: ModuleNotFoundError: No module named 'filelock._api'
#   lmms-eval names filelock in its requirements: False
# Exits 0 while this is so.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export HF_HOME="$tmp/home" HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1

python3 -m venv "$tmp/venv"
python="$tmp/venv/bin/python"
"$python" -m pip install --quiet torch==2.13.0 transformers==5.23.0 datasets==5.2.0 accelerate==1.15.0 numpy==2.4.6 \
  pillow==13.0.0 evaluate==0.4.6 sacrebleu==2.6.0 loguru==0.7.3 pytablewriter==1.2.1 scikit-learn==1.9.1 \
  tenacity==9.2.1 python-dotenv==1.2.4 nltk==3.10.4 pydantic==2.14.4 jsonlines==4.0.0 sympy==1.14.0 openai==3.57.0 \
  filelock==4.2.12
"$python" -m pip install --quiet --no-deps lmms-eval==0.7.3

mkdir "$tmp/tasks"
echo '{"question": "A cat?", "answer": "yes"}' >"$tmp/ours.jsonl"
cat >"$tmp/tasks/ours.yaml" <<YAML
task: ours
dataset_path: json
dataset_kwargs:
  data_files:
    test: $tmp/ours.jsonl
test_split: test
output_type: generate_until
doc_to_visual: !function seen.photos
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs:
  max_new_tokens: 4
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
YAML
printf 'def photos(doc):\n    return []\n' >"$tmp/tasks/seen.py"

cat >"$tmp/show.py" <<'PY'
import sys
from importlib.metadata import version
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

try:
    manager = TaskManager(include_path=sys.argv[1], include_defaults=False)
    found = simple_evaluate(model="dummy", tasks=["ours"], task_manager=manager)
    seen = "evaluated " + ", ".join(found["results"])
except ModuleNotFoundError as error:
    seen = f"{type(error).__name__}: {error}"
print(f"filelock {version('filelock')}: {seen}")
PY
for v in 4.2.12 4.3.1; do
  "$python" -m pip install --quiet "filelock==$v" 2>/dev/null # else told of lmms-eval's packages left out
  "$python" "$tmp/show.py" "$tmp/tasks" >"$tmp/out" 2>"$tmp/err" || { tail -5 "$tmp/err"; exit 1; }
  grep '^filelock ' "$tmp/out" | tee -a "$tmp/seen"
done
"$python" - <<'PY' | tee -a "$tmp/seen"
from importlib.metadata import requires
named = any(requirement.startswith("filelock") for requirement in requires("lmms-eval"))
print("lmms-eval names filelock in its requirements:", named)
PY

cat >"$tmp/stated" <<'TXT'
filelock 4.2.12: evaluated ours
filelock 4.3.1: ModuleNotFoundError: No module named 'filelock._api'
lmms-eval names filelock in its requirements: False
TXT
cmp -s "$tmp/seen" "$tmp/stated" || { echo "changed: not what the comment states"; exit 1; }
