"""easy-VQA (Victor Zhou 2019): 5,000 images of one coloured shape each and 48,248 questions with 13
answers; the PyPI package `easy-vqa` holds all of it."""

from pathlib import Path

from vlm.errors import VLMError


def read_easy_vqa(split: str) -> list[tuple[Path, str, str]]:
    """The image, question and answer of each question of `train` or `test`; a VLMError if the
    package is not installed."""
    try:
        import easy_vqa
    except ImportError as error:
        raise VLMError("easy-vqa needs the package: pip install 'vlm[eval]'") from error
    of_split = {
        "train": (easy_vqa.get_train_questions, easy_vqa.get_train_image_paths),
        "test": (easy_vqa.get_test_questions, easy_vqa.get_test_image_paths),
    }
    questions, images = (get() for get in of_split[split])
    return [
        (Path(images[number]), question, answer)
        for question, answer, number in zip(*questions, strict=True)
    ]
