"""tests/e2e/traps.py in the kernel form, inside the emulated machine (kernel.py).

Starting an agent takes seconds here. So one agent has a context for each configuration that the traps ask for; only
those that stop or kill it get one of their own.
"""
import os
import pathlib
import sys

os.environ["FORM"] = "kernel"
os.environ["GLUE_STEP"] = "13"
TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "lib"), str(TESTS / "e2e")]
import e2e  # noqa: E402
import traps  # noqa: E402

USUAL = e2e.context("www")
REKEY = e2e.context("www", prefer_rekey="true")
CONTEXTS = [USUAL, REKEY, *(e2e.context("www", tickets=count) for count in (0, 1, 2, 5)),
            e2e.context("www", "longname", tickets=8), traps.large_context(), e2e.context("www", groups='"P-256"'),
            e2e.context("www", deadline=traps.DEADLINE)]
NAMES = {text: f"c{number}" for number, text in enumerate(CONTEXTS)}
PORT = e2e.free_port()  # where the agent listens

# They stop or kill the agent.
ALONE = {"no_agent_write_after_export_when_stopped", "no_agent_write_after_export_when_killed"}
# The peer changes its keys, which Linux 6.1 cannot: what prefer_rekey is for. What happens without it is in forms_ends.c.
REKEYING = {"keyupdate_glued_to_finished", "keyupdate_storm_in_both_directions", "keyupdate_fragmented_never_bad_mac"}
# What the form does not matter for.
ELSEWHERE = {"session_resumes_after_export_in_any_cell": "tickets are the agent's; the form is not asked"}

make_agent, make_server, make_worker = e2e.Scene.agent, e2e.Scene.server, e2e.Scene.worker
shared = None
usual = USUAL  # of the trap that runs


def agent(scene, *contexts, **settings):
    if usual is None:
        return make_agent(scene, *contexts, cells=1)
    shared.name = NAMES["".join(contexts) or usual]
    return shared


def server(scene, of, *options, **settings):
    return make_server(scene, of, *options, **{"name": getattr(of, "name", "www"), **settings})


def worker(scene, of, mode, *arguments, **settings):
    return make_worker(scene, of, mode, *arguments, **{"name": getattr(of, "name", "www"), **settings})


def prepared(name, function):
    def run():
        global usual
        usual = None if name in ALONE else REKEY if name in REKEYING else USUAL
        function()
    return run


def test_agent_accepts_for_the_kernel_form():
    with e2e.Scene() as scene:
        make_server(scene, shared, "--form", "kernel", name="listening", workers=1, listener=PORT)
        form = e2e.facts(PORT)["hand-back form"]
        e2e.check(form == "kernel", form)


for name, function in list(vars(traps).items()):
    if name[len("test_"):] in ELSEWHERE:
        print(f"# {name}: not run here: {ELSEWHERE[name[len('test_'):]]}")
    elif name.startswith("test_"):
        globals()[name] = prepared(name[len("test_"):], function)
e2e.Scene.server, e2e.Scene.worker = server, worker
with e2e.Scene() as scene:
    texts = [text.replace('"www"', f'"{NAMES[text]}"', 1) for text in CONTEXTS]
    texts.append(e2e.context("listening", listen=f'{{"127.0.0.1:{PORT}"}}'))
    shared = make_agent(scene, *texts, cells=1)
    e2e.Scene.agent = agent
    e2e.main()
