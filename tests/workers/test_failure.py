"""Why a training that only stands beside a score is not there: in words, without failing what it stands beside."""

from workers.failure import Failure, ended_early


def test_a_retraining_that_ends_early_says_why_in_the_words_of_its_reason() -> None:
    said = [ended_early(error) for error in (Failure("erasing", "The loss is no longer finite."), ValueError("feature 3 is not finite"))]

    assert [words.removeprefix("Trained again from another seed it ended early: ") for words in said] == [
        "The loss is no longer finite.", "feature 3 is not finite"]  # fmt: skip
