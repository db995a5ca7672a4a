"""The benchmarks, a file for each kind: where its data is, what is asked, and how it is scored."""

from eval.benchmarks.ai2d import AI2D
from eval.benchmarks.aokvqa import A_OKVQA, A_OKVQA_DIRECT
from eval.benchmarks.captions import COCO, FLICKR8K, FLICKR30K
from eval.benchmarks.chartqa import CHART_QA
from eval.benchmarks.counts import COUNTS
from eval.benchmarks.daquar import DAQUAR
from eval.benchmarks.docvqa import DOC_VQA
from eval.benchmarks.easy_vqa import EASY_VQA
from eval.benchmarks.everyday import EVERYDAY
from eval.benchmarks.gqa import GQA
from eval.benchmarks.mmbench import MMBENCH
from eval.benchmarks.mme import MME
from eval.benchmarks.naming import NAMING
from eval.benchmarks.pope import POPE
from eval.benchmarks.pope_captions import POPE_CAPTIONS
from eval.benchmarks.scienceqa import SCIENCE_QA
from eval.benchmarks.seed import SEED_IMAGE
from eval.benchmarks.textvqa import TEXT_VQA, TEXT_VQA_OCR
from eval.benchmarks.vizwiz import VIZWIZ
from eval.benchmarks.vqa_v2 import OK_VQA, VQA_V2

BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        VQA_V2,
        GQA,
        TEXT_VQA,
        TEXT_VQA_OCR,
        VIZWIZ,
        POPE,
        POPE_CAPTIONS,
        COUNTS,
        SCIENCE_QA,
        MMBENCH,
        SEED_IMAGE,
        AI2D,
        OK_VQA,
        A_OKVQA,
        A_OKVQA_DIRECT,
        DOC_VQA,
        CHART_QA,
        MME,
        COCO,
        FLICKR30K,
        FLICKR8K,
        DAQUAR,
        EASY_VQA,
        NAMING,
        EVERYDAY,
    )
}
"""By the name that `vlm eval` knows."""
