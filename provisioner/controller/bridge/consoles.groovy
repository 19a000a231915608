/** What the launch log of one request is written to; lines wait here until the build has a console. */
@CompileStatic
class ProvisionerBridgeConsole {
    static final String PREFIX = '[provisioner] '
    static final int MOST_WAITING = 2000
    static final int MOST_TOLD = 10000

    /** The step context of a waiting Pipeline `node` step; null for everything else. */
    private final Object stepContext
    private final ArrayDeque<String> waiting = new ArrayDeque<String>()
    /** Held while lines are written, so that who has it knows that what others took out is written. Never within `this`. */
    private final Object writing = new Object()
    private TaskListener listener
    private Run<?, ?> finishedRun
    private boolean draining
    private boolean finished
    private int dropped
    private int told

    ProvisionerBridgeConsole(Object stepContext) { this.stepContext = stepContext }

    void add(Collection<?> lines) {
        if (!keep(lines, false)) return
        if (stepContext != null) drainSoon() else drainToListener()
    }

    /** What must be told however much was told before: why a build failed. */
    void addInAnyCase(Collection<?> lines) {
        if (!keep(lines, true)) return
        if (stepContext != null) drainSoon() else drainToListener()
    }

    /** The last line, which is to stand before what the run writes next: on this thread, where that needs no loading. */
    private void addNow(String line) {
        if (!keep([line], true)) return
        boolean ready
        synchronized (this) { ready = stepContext == null || listener != null }
        if (!ready) drainSoon() else if (stepContext != null) drainToStep() else drainToListener()
    }

    private synchronized boolean keep(Collection<?> lines, boolean inAnyCase) {
        if (lines == null || lines.isEmpty()) return false
        for (Object line : lines) {
            for (String part : clean(String.valueOf(line))) {
                if (!inAnyCase && (waiting.size() >= MOST_WAITING || told >= MOST_TOLD)) {
                    dropped++
                } else {
                    waiting.add(part)
                    if (told < MOST_TOLD) told++
                }
            }
        }
        return true
    }

    void take(ProvisionerBridgeConsole other) {
        List<String> lines
        synchronized (other) {
            lines = new ArrayList<String>(other.waiting)
            other.waiting.clear()
        }
        add(lines)
    }

    /** The build has begun: everything so far goes to the top of its console, the rest as it comes. */
    void attach(TaskListener target) {
        synchronized (this) { listener = target }
        drainToListener()
    }

    /** The build's listener is about to be closed; later lines are appended to the file. */
    void detach(Run<?, ?> run) {
        synchronized (this) {
            listener = null
            finishedRun = run
        }
    }

    synchronized List<String> drain() {
        List<String> lines = new ArrayList<String>(waiting)
        waiting.clear()
        // once the console is full, one line says so, however much is left out
        if (dropped > 0 && told <= MOST_TOLD) {
            lines.add(told < MOST_TOLD ? "${dropped} more lines are left out".toString() : 'The launch log is too long; the rest is left out')
            if (told == MOST_TOLD) told++
        }
        dropped = 0
        return lines
    }

    private void drainToListener() {
        synchronized (this) {
            if (listener != null) {
                PrintStream out = listener.getLogger()
                for (String line : drain()) out.println(PREFIX + line)
            } else if (finishedRun != null && !waiting.isEmpty()) {
                byte[] bytes = drain().collect { String line -> PREFIX + line + '\n' }.join('').getBytes(finishedRun.getCharset())
                appendingTo(finishedRun).withStream { OutputStream out -> out.write(bytes) }
            }
        }
    }

    /** The end of a console that was closed, behind the same filters as the console itself. */
    private static OutputStream appendingTo(Run<?, ?> run) {
        OutputStream out = new FileOutputStream(run.getLogFile(), true)
        try {
            for (ConsoleLogFilter filter : ConsoleLogFilter.all()) out = filter.decorateLogger(run, out)
            Object job = run.getParent()
            if (run instanceof AbstractBuild && job instanceof BuildableItemWithBuildWrappers) {
                for (Object wrapper : ((BuildableItemWithBuildWrappers) job).getBuildWrappersList()) {
                    out = ((BuildWrapper) wrapper).decorateLogger((AbstractBuild) run, out)
                }
            }
        } catch (Throwable problem) {
            out.close()
            throw problem
        }
        return out
    }

    /** A step context may have to wait for its run to be loaded: never on the caller's thread. */
    private void drainSoon() {
        synchronized (this) {
            if (draining) return
            draining = true
        }
        Computer.threadPoolForRemoting.submit({ ->
            try {
                drainToStep()
            } catch (Throwable problem) {
                synchronized (this) { draining = false }
                ProvisionerBridge.complain('writing to the log of a node step', problem)
            }
        } as Runnable)
    }

    /** Write what waits into the log of the `node` step, on this thread. */
    void drainToStep() { synchronized (writing) { writeToStep() } }

    /** Everything that was said is in the console when this returns, as far as there is one. May wait for a run to be loaded. */
    void flush() {
        if (stepContext != null) drainToStep() else drainToListener()
    }

    private void writeToStep() {
        while (true) {
            List<String> lines
            synchronized (this) {
                lines = drain()
                if (lines.isEmpty()) {
                    draining = false
                    return
                }
            }
            TaskListener target = stepListener()
            if (target == null) continue  // the step is over and nothing was written before: there is no log for it
            PrintStream out = target.getLogger()
            synchronized (out) {
                for (String line : lines) out.println(PREFIX + line)
            }
        }
    }

    /** Have the last line written when the body ends; on another thread, as the run may have to be loaded. */
    void lastly(Closure<String> line) {
        if (stepContext == null) return
        Computer.threadPoolForRemoting.submit({ ->
            try {
                stepListener()
                ProvisionerBridgePipeline.whenBodyEnds(stepContext, { -> finish(line.call()) } as Runnable)
            } catch (Throwable problem) {
                ProvisionerBridge.complain('waiting for the end of a node body', problem)
            }
        } as Runnable)
    }

    /** The last line about the agent; a second time it is not written. */
    void finish(String line) {
        synchronized (this) {
            if (finished) return
            finished = true
        }
        addNow(line)
    }

    /** Kept from the first use: once the step is over, its context gives none. */
    private TaskListener stepListener() {
        synchronized (this) { if (listener != null) return listener }
        TaskListener found
        try {
            found = (TaskListener) ProvisionerBridgePipeline.get(stepContext, TaskListener)
        } catch (IOException | InterruptedException ended) {
            ProvisionerBridge.LOG.log(Level.FINE, 'provisioner bridge: no log for a node step', ended)
            return null
        }
        synchronized (this) { listener = found }
        return found
    }

    boolean isPipeline() { stepContext != null }

    /** One line each, without control characters: neither a console note nor a terminal code may be smuggled in. */
    private static List<String> clean(String text) {
        List<String> parts = []
        for (String part : text.split('\\r?\\n|\\r')) {
            String plain = part.replaceAll('\\u001b\\[[0-9;?]*[A-Za-z]', '').replaceAll('[\\p{Cntrl}&&[^\\t]]', '')
            parts.add(plain.length() > 4000 ? plain.substring(0, 4000) + ' ...' : plain)
        }
        return parts
    }
}
