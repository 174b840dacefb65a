"""What runs start from, written once for all test modules, which only read it."""

import pytest


@pytest.fixture(scope="session")
def ground(tmp_path_factory):
    """Tokenizer, prepared data and base models (runs.Ground)."""
    from tests.distributed.runs import lay_ground  # NeMo: only where it is needed

    return lay_ground(tmp_path_factory.mktemp("ground"))


@pytest.fixture(scope="session")
def policy_ground(tmp_path_factory):
    """A base model that knows its tags, and questions (policy_runs.PolicyGround)."""
    from tests.distributed.policy_runs import lay_ground

    return lay_ground(tmp_path_factory.mktemp("policy_ground"))
