"""The command next: the table of a person and the JSON line of a program."""

import json

from haystack_kernel.campaign.next import next_experiments
from tests.campaign.test_next import falling, make_list


def test_next_prints_the_proposals_of_a_file(call, tmp_path):
    path = tmp_path / "list.csv"
    make_list(falling(), 0.1).to_csv(path, index=False)
    value = json.loads(call("next", path, "--top", 5, "--donors", 2).out)
    found = next_experiments(make_list(falling(), 0.1), top=5, n_donors=2)
    assert [row["perturbation"] for row in value["table"]] == found.table["perturbation"].tolist()
    assert (value["by"], value["n_donors"], len(value["assumed"])) == ("size", 2, 3)
    shown = call("next", path, "--top", 5, "--table")
    assert "chance of a change" in shown.out
    assert call("next", tmp_path / "none.csv").code == 2
    (tmp_path / "empty.csv").write_text("")
    assert call("next", tmp_path / "empty.csv").code == 2
