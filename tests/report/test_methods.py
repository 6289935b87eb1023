from haystack_kernel.report.methods import methods_paragraph
from haystack_kernel.schema import Bill, EnginePick, ModelCard


def test_methods_state_the_numbers_of_the_record(make_run):
    text = methods_paragraph(make_run())
    assert (
        "40 prompt cells and 30 matched control cells (same dataset and cell types, same donors) were used to transform"
        in text
    )
    assert "transform 20 query cells" in text
    assert "(9,999 draws each)" in text
    assert "numpy 2.0" in text
    assert "atlas:kang 0123456789ab" in text
    assert "simulated" not in text


def test_methods_say_simulated_unmatched_and_unscored(make_run, failed_run):
    assert "Atlas 'demo' is simulated" in methods_paragraph(make_run(atlas="demo"))
    record = make_run()
    without = record.rounds[0].model_copy(update={"n_control": 0})
    assert "no matched control cells" in methods_paragraph(record.model_copy(update={"rounds": (without,)}))
    assert "No round has been scored" in methods_paragraph(failed_run)


def test_methods_tell_the_cost_of_each_kind_of_job_apart(make_run):
    record = make_run()
    assert "USD" not in methods_paragraph(record)  # all jobs of this machine
    prediction = Bill(job_id="p", attempt=1, machine="l4 (g2-standard-8)", seconds=90, usd=0.004, state="succeeded")
    watching = Bill(kind="orchestrator", job_id="o", attempt=1, machine="cpu", seconds=600, usd=0.5, state="succeeded")
    billed = record.rounds[0].model_copy(update={"bills": (prediction,)})
    text = methods_paragraph(record.model_copy(update={"rounds": (billed,), "bills": (watching,)}))
    assert "The predictions took 1 cloud job on l4 (g2-standard-8): 1.5 machine minutes, about 0.004 USD" in text
    assert "The orchestrator took 1 cloud job on cpu: 10.0 machine minutes, about 0.50 USD" in text


def test_methods_name_the_engine_that_auto_took_and_the_terms_of_one_of_another_package(make_run):
    record = make_run()
    pick = EnginePick(engine="mine", default="weighted", reason="it leads")
    card = ModelCard(name="foreign 2.1", sha256="0" * 64, licence="MIT", citation="A & B 2026")
    scored = record.rounds[0].model_copy(update={"model": card})
    config = record.config.model_copy(update={"engine": "mine"})
    text = methods_paragraph(record.model_copy(update={"rounds": (scored,), "config": config, "engine_pick": pick}))
    assert "Engine 'mine' predicted the query cells by code of its own" in text
    assert "The engine is foreign 2.1 (MIT; cite A & B 2026)." in text
    assert "Engine auto took mine, in place of the default weighted: it leads." in text
    assert "STACK" not in text.replace("HAYSTACK", "")
