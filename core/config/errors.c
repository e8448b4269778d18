/* SPDX-License-Identifier: Apache-2.0
 * errors.c - the pages of errors.h. One PAGE a number; lines up to 90 columns. */
#include "errors.h"
#include <string.h>

#define PAGE(name, title, text) \
    static const char title_##name[] = title; \
    static const char page_##name[] = text;

/* ---- 1xx: the profile and the command line --------------------------------------- */

PAGE(PROFILE_SYNTAX, "A line of a profile cannot be read",
"A profile line is [section], key = value, or a comment. This one is none of them.\n"
"Usual causes: a missing '=' or ']'; a value carried over to a second line (a value ends\n"
"with its line, up to 65536 bytes); a key before the first section; an unclosed quote; a\n"
"binary or UTF-16 file.\n"
"What to do: look at the carets under the line. A value that holds ';' or outer blanks goes\n"
"in double quotes: prompt = \"one; two \". Control characters are written \\n, \\t or \\xHH\n"
"there.\n")
PAGE(PROFILE_KEY, "A key or a section that nobody knows",
"Every key of a profile must be read by somebody: by core, or by a plugin that the profile\n"
"chooses. A key that nobody reads would be a setting that silently does nothing.\n"
"Usual causes: a slip of the pen (the message names the nearest word); a key in the wrong\n"
"section; a plugin's own key in [KIND] where it belongs in [KIND.NAME]; a [KIND@NAME]\n"
"instance that the job does not use.\n"
"What to do: `mrun explain SECTION` or `mrun explain KIND/NAME` lists what is accepted.\n"
"Sections of plugins that are not chosen may stay: they are kept unread.\n")
PAGE(PROFILE_VALUE, "A value is not of its option's type, or out of its range",
"The message says what was expected and where reading stopped.\n"
"int: 4096, 1_000_000, 1e6. float: 3e-4. bool: true/false, yes/no, on/off, 1/0.\n"
"size: 64MiB, 1.5GiB, or bytes. time: 250ms, 30s, 5min, 2h. list: a, b, c.\n"
"path: relative to the file that it stands in; ~/ and ${NAME} expand.\n"
"Usual causes: a unit where none belongs (or none where one does), '#' after a value (a\n"
"comment there starts with ' ;'), an environment variable in a path that is not set.\n"
"What to do: `mrun explain SECTION.KEY` prints type, range, words and default.\n")
PAGE(PROFILE_DUPLICATE, "A key is given twice in one file",
"Within one file a key stands once; which of two values wins should never be a riddle.\n"
"Usual causes: a block that was copied and changed; a section that is opened twice; the old\n"
"and the new spelling of one option side by side.\n"
"What to do: delete one of the two lines. To override on purpose, put the common values\n"
"into a file and `include` it (the including file wins), or use --set (it wins over all).\n")
PAGE(PROFILE_INCLUDE, "A profile, or a file that it includes, cannot be read",
"`include = a.ini b.ini` stands before the first section; names are separated by blanks and\n"
"relative to the including file. Files are read in order, later ones win, and the including\n"
"file wins over all of them.\n"
"Usual causes: a wrong path; a file that includes itself, directly or over others (the\n"
"message shows the way round); more than 16 levels; a file over 4 MiB.\n"
"What to do: correct the path or break the cycle; `mrun check PROFILE.ini` shows the origin\n"
"of every value.\n")
PAGE(PROFILE_MISSING, "A value is needed that the profile does not give",
"The job, or a plugin that it uses, needs this key, and there is no default that would be\n"
"right for nearly everybody.\n"
"Usual causes: a new profile that is not complete ([model] plugin and [train] steps have no\n"
"default); a data plugin without its path; a misspelt key in another section.\n"
"What to do: add the key. `mrun explain SECTION.KEY` says what it means.\n")
PAGE(PROFILE_CONFLICT, "Values that are right alone contradict each other",
"Usual causes: global_batch that micro_batch x dp does not divide; a mesh axis above 1 with\n"
"[comm] plugin = none; a warm-up longer than the run; min_lr above lr; one sink twice.\n"
"What to do: the message shows the numbers; change one side. With `mrun check PROFILE.ini\n"
"--set section.key=value` alternatives can be tried without editing.\n")
PAGE(USAGE, "The command line cannot be understood",
"Usual causes: an unknown command or option; a missing argument; --set without the form\n"
"section.key=value (the last dot before '=' splits section from key, so that\n"
"--set backend.cuda.matmul=own sets matmul in [backend.cuda]).\n"
"What to do: `mrun --help` lists the commands, `mrun COMMAND --help` its arguments.\n")

/* ---- 2xx: plugins ---------------------------------------------------------------- */

PAGE(PLUGIN_NOT_FOUND, "No plugin of this name was found",
"The profile chooses a plugin, and no file on the search path offers it. mrun never takes\n"
"another one instead.\n"
"Searched, first hit wins: --plugin-path, MRUN_PLUGIN_PATH, $XDG_DATA_HOME/mrun/plugins-1,\n"
"lib/mrun/plugins-1 beside the program, the folder compiled in. The message lists them.\n"
"Usual causes: a misspelt name; a plugin that was not built because its library was missing;\n"
"a build tree that is not on MRUN_PLUGIN_PATH.\n"
"What to do: `mrun plugins` lists what is there. A path with '/' names a file directly.\n")
PAGE(PLUGIN_LOAD, "A plugin's file could not be loaded",
"The file is there, but the dynamic loader refused it.\n"
"Usual causes: a library that it needs is not installed (the message names it); a file built\n"
"for another machine; no permission to read it; an undefined symbol.\n"
"What to do: install the library, or rebuild the plugin here. `ldd FILE` shows what is\n"
"missing; `mrun plugins --scan` tries every plugin in a child process.\n")
PAGE(PLUGIN_VERSION, "The plugin and this mrun speak different versions of the ABI",
"The message gives both versions. Until 1.0 the ABI is 0.x and each minor stands alone; from\n"
"1.0 on an older plugin loads in every newer mrun of its major.\n"
"Usual causes: a plugin left over from another release; a newer plugin in an older mrun.\n"
"What to do: rebuild the plugin against the installed headers (pkg-config mrun-1), or update\n"
"mrun. `mrun --version` and `mrun plugins` print the two numbers.\n")
PAGE(PLUGIN_MALFORMED, "The plugin breaks a rule of the ABI",
"Before any of its code runs, a plugin's header, units and option rows are checked.\n"
"Usual causes: no symbol mrun_plugin_v1; a wrong magic or size; a unit without name or table;\n"
"two units of one name; an option without doc, outside its struct, or with a default that\n"
"fails its own range.\n"
"What to do: if the plugin is yours, `mrun check FILE.so` names every finding; else report it\n"
"to its author and choose another.\n")
PAGE(PLUGIN_CRASHED, "The plugin crashed while it was looked at",
"Plugins are scanned in a child process, so that this does not take mrun down.\n"
"Usual causes: a constructor or open() that touches a device or a file that is not there; a\n"
"binary for other CPU instructions (SIGILL).\n"
"What to do: `mrun check FILE.so` runs each test alone and names the signal; under a\n"
"debugger, `mrun check FILE.so --in-process` keeps it in one process.\n")
PAGE(PLUGIN_TIMEOUT, "The plugin took too long while it was looked at",
"Loading and open() must be quick and must not touch devices or the network.\n"
"Usual causes: an open() that waits for a device, a lock or a server; a slow network disk.\n"
"What to do: move the slow work from open() into the unit's create(); `mrun check FILE.so`\n"
"measures it.\n")
PAGE(PLUGIN_OPEN, "The plugin declined to work here",
"Its open() or create() reported an error; the message is the plugin's own.\n"
"Usual causes: the device or driver that it serves is absent; a version of its library that it\n"
"does not support; a host service that it needs and this mrun lacks.\n"
"What to do: follow the plugin's message; `mrun explain KIND/NAME` prints its options.\n")
PAGE(PLUGIN_CONFORMANCE, "A plugin failed its conformance tests",
"`mrun check` runs the tests of the plugin's kind; at least one failed.\n"
"Usual causes: a kernel that disagrees with the catalogue's reference loops; writing to stdout;\n"
"leaked file descriptors or threads; a result that changes between two equal runs.\n"
"What to do: run the one test with `mrun check PLUGIN -t NAME`; --list prints all names.\n")

/* ---- 3xx: data ------------------------------------------------------------------- */

PAGE(DATA_OPEN, "A data file cannot be opened",
"Usual causes: a wrong path (paths are relative to the profile that holds them); no\n"
"permission; text that was never fetched (`./dev run` fetches the quick start's).\n"
"What to do: `mrun check PROFILE.ini` prints the full path and the line that it is from.\n")
PAGE(DATA_FORMAT, "A data file is not what it should be",
"The file was opened, and its content contradicts its format.\n"
"Usual causes: a .bin that does not belong to its .idx; a file cut short by a full disk or a\n"
"broken copy; JSONL with a bad line (the message gives its number); the wrong tokenizer's ids.\n"
"What to do: make the file again with the job `preprocess`, or compare its size and checksum\n"
"with the source.\n")
PAGE(DATA_SHORT, "The data set is shorter than one sequence",
"Training needs at least one window of seq + 1 tokens in each part, training and validation.\n"
"Usual causes: an empty file; a validation part of too few percent; a seq that is larger than\n"
"the text.\n"
"What to do: lower [train] seq, enlarge the validation part, or bring more text.\n")
PAGE(TOKENIZER, "The tokenizer cannot handle this",
"Usual causes: an id outside its vocabulary (data that another tokenizer made); a model whose\n"
"vocab is smaller than the tokenizer's; a broken tokenizer file.\n"
"What to do: use the tokenizer that the data and the model were made with; leave [model] vocab\n"
"out to take the tokenizer's.\n")
PAGE(IMAGE_FORMAT, "A picture cannot be read",
"mrun reads PNG and JPEG, known by their first bytes, not by their names. A file that is cut\n"
"off or damaged is refused as a whole: a picture with a grey rest would be learnt as one.\n"
"Usual causes: another format (WebP, GIF, BMP, SVG); a download that was cut off; a page of\n"
"text that a server sent in the picture's place.\n"
"What to do: open the file with another program; save it again as PNG.\n")
PAGE(IMAGE_LIMIT, "A picture is larger than what is allowed",
"The size of the file, the pixels of a side, their product and the ratio of the sides have\n"
"limits that are checked before memory is taken, so that a small file cannot ask for much; a\n"
"sample of a data set has room for a number of tiles. The message gives value and limit.\n"
"Usual causes: a scan or a panorama at full size; a file that was made to exhaust memory; a\n"
"max_tiles that is smaller than what the picture is cut into.\n"
"What to do: make the picture smaller or cut it; or raise max_tiles where that is the limit.\n")
PAGE(IMAGE_COUNT, "Pictures and their places in the text do not match",
"Every picture needs one placeholder in the text, and every row of features that its tiles\n"
"give needs one image token in the ids. More or fewer on either side is an error.\n"
"Usual causes: a forgotten or doubled placeholder; --ids that were made for other pictures or\n"
"another grid of tiles; a tokenizer that does not know the words of the grid as special.\n"
"What to do: give --text with one placeholder a picture (the message names it), in order.\n")
PAGE(TEMPLATE, "A chat template stopped",
"The message gives the template and its line. A template may refuse messages itself\n"
"(raise_exception): roles that do not take turns, a system message it has no place for.\n"
"Usual causes: messages of a form that this model was not trained on; a template that uses\n"
"something of Jinja that mrun lacks, or that passes a limit on steps, memory or depth.\n"
"What to do: change the messages as the text says; `mrun tokenize --chat` shows what comes out.\n"
"Another template is taken with --chat-template FILE.\n")

/* ---- 4xx: models, programs, plans ------------------------------------------------ */

PAGE(MODEL_CONFIG, "The model's sizes contradict each other",
"Usual causes: heads that kv_heads does not divide; an odd head width with rotary positions;\n"
"more experts per token than experts; sizes that neither the profile nor a config.json gives.\n"
"What to do: the message names the two numbers. With [model] hf = FOLDER the sizes come from\n"
"config.json; a size in the profile overrides it.\n")
PAGE(PROGRAM, "A model plugin described something that cannot be built",
"The builder refused a call: a wrong operand count, a value of another block, an attribute that\n"
"the op does not know.\n"
"Usual causes: an error in the model plugin; a plugin newer than this mrun's catalogue.\n"
"What to do: the message gives op, block and source line. `mrun explain op NAME` prints the\n"
"operands. If the plugin is not yours, report it to its author.\n")
PAGE(OP_UNKNOWN, "An op that the catalogue does not have",
"Usual causes: a misspelt op id in a model or optimizer plugin; an op that another plugin\n"
"brings and that is not loaded; a plugin for a newer mrun.\n"
"What to do: `mrun explain op` lists the ops; load the plugin that has it, or update mrun.\n")
PAGE(OP_SHAPE, "The shapes of an op's operands do not fit",
"The op's shape rule refused its operands; the message shows their types.\n"
"Usual causes: sizes in the profile that contradict each other; a checkpoint of another model;\n"
"an error in a model plugin.\n"
"What to do: `mrun explain op NAME` prints what the op wants; `mrun plan PROFILE.ini` shows the\n"
"shapes of the whole block.\n")
PAGE(PLAN_VERIFY, "A compiled plan failed its own check",
"After each pass a verifier looks for values used before they exist, memory that overlaps, and\n"
"gradients that are lost. It found one. This is an error in mrun or in a plugin's op.\n"
"What to do: keep the profile and the output of `mrun plan PROFILE.ini`, and report\n"
"both. Until then [train] recompute = none or another backend may avoid the pass.\n")
PAGE(NO_GRADIENT, "An op on the way to the loss has no gradient",
"Usual causes: a plugin's op with reference loops only (it runs, but it cannot train); a\n"
"loss that passes through integers or through a state.\n"
"What to do: give the op a vjp, or freeze what lies before it with an optimizer group\n"
"PATTERN:frozen.\n")

/* ---- 5xx: the run ---------------------------------------------------------------- */

PAGE(NOMEM, "There is not enough memory",
"The need is known before the start; the message gives it, what is free, and the largest\n"
"buffers by region.\n"
"What to do, cheapest first: lower [train] micro_batch (global_batch keeps the result the\n"
"same); set recompute = core_attn,moe_act,layernorm or full; lower seq; use bf16; split over\n"
"more ranks. `mrun plan PROFILE.ini --set ...` shows the effect without running.\n")
PAGE(NONFINITE, "The loss or a gradient became NaN or infinite",
"The step was not applied: parameters and optimizer state are those of the step before, and the\n"
"last checkpoint is untouched.\n"
"Usual causes: a learning rate that is too high or a warm-up that is too short; no gradient\n"
"clipping; broken data; a fault of a kernel or of the machine.\n"
"What to do: --set debug.mode=step finds the op and the layer that made it first. Then lower\n"
"lr, set clip_grad = 1.0, or lengthen the warm-up.\n")
PAGE(CANCELLED, "The work was interrupted",
"A signal or a sibling's failure asked for the stop.\n"
"SIGINT once and SIGTERM finish the step and save a checkpoint; SIGINT twice stops at once.\n"
"What to do: the same command again resumes from the newest checkpoint.\n")
PAGE(RUN_MISMATCH, "The run folder belongs to a different profile",
"A folder holds one run. Its profile.resolved.ini differs from this profile in the keys that\n"
"the message lists, so that going on would mix two runs.\n"
"What to do: change run.dir to start a new run; undo the change to go on; or start a new run\n"
"from the old one's weights with --set run.fork=true.\n")
PAGE(GUARD, "A kernel wrote outside its buffer",
"In debug mode every buffer is framed by guard bytes, and these changed. This is an error in a\n"
"backend or in a plugin's op.\n"
"What to do: the message names op, operand and layer. `mrun check backend/NAME` repeats the op\n"
"alone; report it to the author. The same profile on backend ref shows whether the rest is\n"
"sound.\n")
PAGE(DIVERGED, "Two runs that should agree do not",
"`mrun diff` compared two executions step by step, and the message names the first value that\n"
"differs and by how much; or [run] check_replicas found that ranks which hold the same parameters\n"
"hold other bits, and the message names the rank that stands alone.\n"
"Usual causes: a kernel that is wrong or depends on timing; a broken machine; profiles that\n"
"differ in more than the backend.\n"
"What to do: compare under [run] deterministic = true and fp32; `mrun check backend/NAME` tests\n"
"the op that the message names.\n")
PAGE(EXPERT_ROOM, "A rank's experts are sent more rows than there is room for",
"With [mesh] ep above 1 tokens travel to the ranks of their experts. [mesh] dispatch_bound says\n"
"how many rows a rank has room for, as a multiple of those that it sends; more came. The step\n"
"was not made: no weight has changed.\n"
"Usual causes: a router that sends most tokens to few experts, as in the first steps; a bound\n"
"close to 1.\n"
"What to do: raise dispatch_bound, or set it to 0: then there is room for all rows of all ranks.\n"
"An auxiliary loss of the model ([model.NAME] aux_loss) evens the load.\n")

PAGE(FAULT_TRANSIENT, "A step was wrong once, and right when it ran again",
"The loss or a gradient was not finite; the same step over the same samples, from the same\n"
"weights, was finite when it ran again. Equal inputs give equal bits here, so the first time the\n"
"machine was at fault: memory, a link, a core. The step that was right is saved.\n"
"What to do: look at the host's log (ECC, Xid, link errors) and drain the host if it happens\n"
"again; the same command goes on. Exit code 16. `[run] rerun = none` turns the check off.\n")
PAGE(FAULT_PERSISTENT, "A step is wrong in another way each time",
"The loss or a gradient was not finite; the same step over the same samples, from the same\n"
"weights, was not finite again, with other figures. Equal inputs give equal bits here, so this\n"
"machine computes wrongly. Nothing of the step was kept; the last checkpoint is valid.\n"
"What to do: run elsewhere. Exit code 17, which `mrun supervise` does not start again. A step\n"
"that is wrong in the same way twice is the data's or the model's fault (E0502), or that of a\n"
"fault that repeats: the same run on another machine tells.\n")
PAGE(FAULT_UNDECIDED, "A step is wrong in the same way twice on this machine",
"It was not finite, or its loss a spike ([run] check_for_spiky_loss), and the same figures came\n"
"when it ran again: by its data or the model, or by a machine that repeats its fault. With\n"
"[run] rerun = elsewhere the figures are kept in RUN_DIR/rerun.json, and the weights from before\n"
"the step are saved.\n"
"What to do: start the same command on another machine. It compares, and ends with E0509 (exit\n"
"code 17) if the first machine was wrong; if not, with E0502, or goes on after a spike. Exit\n"
"code 16. `--set run.rerun=nonfinite` asks no other machine.\n")

/* ---- 6xx: files ------------------------------------------------------------------ */

PAGE(STORE_IO, "Reading or writing a file failed",
"The operating system refused; the message carries its reason.\n"
"Usual causes: no permission; a folder that does not exist; a disk or network file system that\n"
"reports an error.\n"
"What to do: check the path in the message. A checkpoint that was being written is not used:\n"
"the one before stays valid.\n")
PAGE(STORE_FORMAT, "A checkpoint or weight file is malformed",
"Its header, a size or an offset contradicts the file.\n"
"Usual causes: a download or copy that was cut short; a Git LFS pointer instead of the\n"
"weights (a text file of about 130 bytes); a file of another format.\n"
"What to do: fetch the file again; `mrun inspect FOLDER` shows what can be read.\n")
PAGE(STORE_CHECKSUM, "A file's content does not match its checksum",
"The bytes changed after they were written.\n"
"Usual causes: a failing disk or memory; a file that was edited; an interrupted copy.\n"
"What to do: use an older checkpoint (they stand side by side in the checkpoint folder), or\n"
"copy the file again from where it is whole. Then test the disk.\n")
PAGE(STORE_MISSING, "A tensor or a file that is needed is not there",
"Usual causes: weights of another model family or size; a folder with some of its shards\n"
"only; a checkpoint without optimizer state where training wants to resume.\n"
"What to do: `mrun inspect FOLDER` lists what is there; compare with the names in the message.\n")
PAGE(STORE_FULL, "The disk is full",
"A checkpoint did not fit. It was removed again; the ones before are untouched.\n"
"What to do: free space or lower [checkpoint] keep, then run the same command again: it resumes\n"
"from the newest checkpoint.\n")
PAGE(STORE_LAYOUT, "A checkpoint can only be read by the mesh that wrote it",
"It was written with [checkpoint] format = dp_reshardable, or is a local one: the optimizer's\n"
"buffers as they lay, which mean nothing under other sizes of tp, pp, ep or another grouping of\n"
"parameters.\n"
"What to do: run it once with the [mesh] that the message names and format = fully_reshardable;\n"
"that checkpoint loads under any mesh.\n")

/* ---- 7xx..9xx: devices, ranks, faults -------------------------------------------- */

PAGE(UNSUPPORTED, "The backend cannot do this",
"No kernel of the chosen backend takes this op with these types, and it cannot be lowered to\n"
"ops that do.\n"
"Usual causes: a number format that the device lacks; an op of a plugin that has kernels for\n"
"another backend only.\n"
"What to do: choose another [precision] recipe or backend; `mrun plan PROFILE.ini` lists\n"
"which ops the backend takes.\n")
PAGE(DEVICE, "The device failed",
"The driver reported an error; the message carries its number and text.\n"
"Usual causes: no device or driver; a device in use by others; a kernel that ran out of\n"
"bounds; a hardware fault (look for Xid lines in the kernel log).\n"
"What to do: run again with --set debug.mode=step, which names the kernel. The last\n"
"checkpoint is valid, and the same command resumes from it.\n")
PAGE(COMM, "Communication between ranks failed",
"Usual causes: a rank that died, hangs or never came, which the message names (its own output has\n"
"the first error); ranks started with different profiles or programs; a launcher that set no rank\n"
"or world size, or variables of two launchers that contradict each other; a port in use; a network\n"
"that is down.\n"
"What to do: look for the rank that is named. [comm] timeout is how long ranks wait for one that\n"
"does not come, [comm] heartbeat how long a process may give no sign of life. After the cause is\n"
"mended, the same command resumes; `mrun supervise -- COMMAND` does that by itself.\n")
PAGE(ARG, "A function was called with an argument that it does not take",
"A caller, mostly a plugin, broke the contract of a host function.\n"
"What to do: if the plugin is yours, read the function's comment in the header; else report the\n"
"message to the plugin's author, with `mrun --version`.\n")
PAGE(INTERNAL, "mrun found itself in a state that should not exist",
"This is an error in mrun, not in the profile.\n"
"What to do: keep the profile (`mrun check PROFILE.ini` prints it whole), the message and\n"
"the output of `mrun --version`, and report them. The last checkpoint is valid.\n")

/* ---- the table ------------------------------------------------------------------- */

static const mri_error_info table[] = {
#define ROW(name, number) { number, #name, title_##name, page_##name },
    MR_ERR_MAP(ROW)
#undef ROW
};

const mri_error_info *mri_errors(size_t *n)
{
    *n = sizeof table / sizeof *table;
    return table;
}

const mri_error_info *mri_error_find(int number)
{
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].number == number)
            return &table[i];
    return NULL;
}

const char *mri_error_page(int number)
{
    const mri_error_info *e = mri_error_find(number);
    return e ? e->text : NULL;
}

/* The page as paragraphs: its "Usual causes:" and "What to do" start new ones. */
void mri_error_markdown(const mri_error_info *e, mri_str *out)
{
    mri_str_fmt(out, "<!-- SPDX-License-Identifier: Apache-2.0\n"
                     "     Written by `mrun explain --write-errors`; edit "
                     "core/config/errors.c. -->\n"
                     "# E%04d %s\n\n**%s.**\n\n", e->number, e->name, e->title);
    for (const char *line = e->text; *line;) {
        size_t n = strcspn(line, "\n") + 1;
        bool start = !strncmp(line, "Usual causes:", 13) || !strncmp(line, "What to do", 10);
        if (start && line != e->text)
            mri_str_add(out, "\n");
        mri_str_addn(out, line, n);
        line += n;
    }
}
