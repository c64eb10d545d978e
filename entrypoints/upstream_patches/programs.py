"""Patches of upstream's inference programs and of the part of PaddleNLP that they use."""

from __future__ import annotations

from entrypoints.upstream_patches.patch import CPU, Edit, Patch

__all__ = ["PATCHES"]

_UNIT = "tests/unit/test_upstream_patches.py::"
_PREDICTOR = "llm/predict/predictor.py"
_UTILS = "paddlenlp/utils/llm_utils.py"

_IMPORT = "import paddle.incubate.multiprocessing as mp\n"
_WITH_MESSAGES = f"{_IMPORT}from entrypoints.upstream_patches import messages as _messages\n"
_READER = (
    "            target=llm_utils.read_res, "
    "args=[self.model_name_or_path, tensor_queue, result_queue, done_event]\n"
)
_DAEMON = _READER.replace("done_event]\n", "done_event], daemon=True\n")
_WAIT = "            done_event.wait()\n"
_GET = "                result = result_queue.get(timeout=1)\n"

PATCHES = (
    Patch(
        "message-queue",
        _PREDICTOR,
        951,
        "save_output and get_output take the System V queue of ftok('./', 1): what an unfinished "
        "run has left in it comes to the next one in the folder, two runs in a folder mix their "
        "tokens, and so do containers with --ipc=host. Without block attention tokens go to "
        "real_time_save.temp_ids_rank_0_step_N in the working folder, with the same effects",
        "each run has a folder and a queue of its own, made at its start and removed at its end; "
        "tokens that came through it are counted against those that were generated",
        "tests/jobs/test_fused_upstream.py::test_what_another_run_has_left_is_not_read",
        (
            (
                Edit(_IMPORT, _WITH_MESSAGES),
                Edit(
                    '        while self.model_inputs["not_need_stop"]:\n'
                    "            self._infer(self.model_inputs)\n",
                    "        steps = _messages.generate(self.model_inputs, self._infer)\n",
                ),
                Edit(
                    '        while self.model_inputs["not_need_stop"]:\n'
                    "            self.predictor.run(list(self.model_inputs.values()))\n",
                    "        steps = _messages.generate(\n"
                    "            self.model_inputs,\n"
                    "            lambda inputs: self.predictor.run(list(inputs.values())),\n"
                    "        )\n",
                ),
                Edit(
                    _GET,
                    "                reader = read_res_process\n"
                    "                result = _messages.result(result_queue, reader, steps)\n",
                    2,
                ),
                Edit(
                    "            tokens: np.ndarray = llm_utils.load_real_time_tokens()\n",
                    "            tokens = _messages.inside(llm_utils.load_real_time_tokens)\n",
                ),
                Edit(
                    "        input_tensor.share_external_data(self.pre_ids)\n\n"
                    "        self.predictor.run()\n",
                    "        input_tensor.share_external_data(self.pre_ids)\n\n"
                    "        _messages.inside(self.predictor.run)\n",
                ),
                Edit(
                    '        inputs["cache_kvs"] = self.cache_kvs\n'
                    "        self.model.generate(\n            **inputs,\n        )\n",
                    '        inputs["cache_kvs"] = self.cache_kvs\n'
                    "        _messages.inside(self.model.generate, **inputs)\n",
                ),
            ),
        ),
    ),
    Patch(
        "reader-that-hangs",
        _PREDICTOR,
        946,
        "after an error in block mode the program never ends: its reader of tokens waits for "
        "messages, and it waits for the reader. One that dies before it is ready is waited for too",
        "the reader ends with the program, and one that has ended is an error",
        "tests/jobs/test_fused_upstream.py::test_an_error_ends_the_program",
        (
            (
                Edit(_READER, _DAEMON, 2),
                Edit(_WAIT, "            _messages.wait(done_event, read_res_process)\n", 2),
            ),
        ),
    ),
    Patch(
        "message-queue-of-the-reader",
        _UTILS,
        760,
        "the reader takes the queue of the working folder, waits for a second, and no longer, for "
        "what it is started with (_queue.Empty on a slow host, PaddleNLP#9080), and outlives a "
        "program that is killed",
        "it takes the run's queue, waits while the program runs, and ends with it",
        _UNIT + "test_the_reader_waits_for_a_slow_program",
        (
            (
                Edit(
                    "    output_tensor = tensor_queue.get(timeout=1)\n",
                    "    from entrypoints.upstream_patches import messages as _messages\n\n"
                    "    _messages.enter()\n"
                    "    output_tensor = tensor_queue.get(timeout=_messages.SECONDS)\n",
                ),
            ),
        ),
    ),
    Patch(
        "temperature-0",
        _PREDICTOR,
        1186,
        "temperature 0 divides by zero: every logit is infinite or not a number (PaddleNLP#8830)",
        "it is the likeliest token, as with greedy_search",
        "tests/jobs/test_fused_upstream.py::test_temperature_0_is_greedy",
        (
            (
                Edit(
                    '    if predictor_args.decode_strategy == "greedy_search":\n',
                    "    if predictor_args.temperature == 0:\n"
                    '        predictor_args.decode_strategy = "greedy_search"\n'
                    '    if predictor_args.decode_strategy == "greedy_search":\n',
                ),
            ),
        ),
    ),
    Patch(
        "positions",
        _PREDICTOR,
        136,
        "caches, masks and rotary embeddings are for 8192 positions, whatever the model has: more "
        "memory than it can use, and too few for a model with more",
        "they are for the model's positions, and for 8192 of a model that has more, unless the "
        "lengths ask for more",
        _UNIT + "test_caches_are_as_long_as_the_model",
        (
            (
                Edit(
                    "            return 8192  # Maximum sequence length.\n",
                    "            from entrypoints.upstream_patches.lengths import total_length\n\n"
                    "            lengths = self.src_length + self.max_length\n"
                    "            return total_length(self.model_name_or_path, lengths)\n",
                ),
            ),
        ),
    ),
    Patch(
        "static-on-a-cpu",
        _PREDICTOR,
        652,
        "predictors of static graphs ask for a GPU on every device but a few: on a CPU they fail",
        "on a CPU they compute on it",
        "tests/jobs/test_fused_upstream.py::test_upstreams_programs_compute_what_generate_does",
        (
            (
                Edit(
                    "            config.enable_use_gpu(100, device_id)\n",
                    "            config.disable_gpu()\n",
                    2,
                ),
            ),
        ),
        CPU,
    ),
)
