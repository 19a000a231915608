/*
 * The bridge of the provisioner: what a sidecar needs inside a running Jenkins controller, without a plugin.
 * It answers JSON under /provisioner-bridge/; docs/bridge-protocol.md says what.
 *
 * Put in through the script console, or dropped into init.groovy.d by an administrator. Everything that
 * differs between the two is the one constant below: base64 of JSON, filled in by the sidecar, never code.
 *
 * Rules in here: nothing thrown into Jenkins' own paths, nothing slow and no lock of ours held inside the
 * queue lock, and no class of this script in anything that Jenkins saves.
 */
import groovy.json.JsonOutput
import groovy.json.JsonSlurperClassic
import groovy.transform.CompileDynamic
import groovy.transform.CompileStatic
import hudson.AbortException
import hudson.ExtensionList
import hudson.console.ConsoleLogFilter
import hudson.model.AbstractBuild
import hudson.model.AbstractProject
import hudson.model.Action
import hudson.model.BuildListener
import hudson.model.BuildableItemWithBuildWrappers
import hudson.model.Computer
import hudson.model.Executor
import hudson.model.ExecutorListener
import hudson.model.Failure
import hudson.model.Item
import hudson.model.Job
import hudson.model.Label
import hudson.model.LabelFinder
import hudson.model.Node
import hudson.model.OneOffExecutor
import hudson.model.ParameterValue
import hudson.model.ParametersAction
import hudson.model.Queue
import hudson.model.Result
import hudson.model.RootAction
import hudson.model.Run
import hudson.model.TaskListener
import hudson.model.TopLevelItem
import hudson.model.labels.LabelAtom
import hudson.model.listeners.RunListener
import hudson.model.queue.CauseOfBlockage
import hudson.model.queue.QueueListener
import hudson.model.queue.QueueTaskDispatcher
import hudson.model.queue.SubTask
import hudson.model.queue.WorkUnit
import hudson.model.queue.WorkUnitContext
import hudson.remoting.AsyncFutureImpl
import hudson.security.ACL
import hudson.security.ACLContext
import hudson.slaves.Cloud
import hudson.slaves.ComputerListener
import hudson.slaves.DumbSlave
import hudson.slaves.JNLPLauncher
import hudson.slaves.OfflineCause
import hudson.slaves.RetentionStrategy
import hudson.slaves.SlaveComputer
import hudson.tasks.BuildWrapper
import java.lang.reflect.Field
import java.lang.reflect.InvocationHandler
import java.lang.reflect.Method
import java.lang.reflect.Proxy
import java.nio.channels.ClosedChannelException
import java.util.concurrent.ConcurrentHashMap
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit
import java.util.concurrent.atomic.AtomicInteger
import java.util.concurrent.atomic.AtomicLong
import java.util.logging.Level
import java.util.logging.Logger
import java.util.regex.Matcher
import java.util.regex.Pattern
import jenkins.model.Jenkins
import jenkins.model.NodeListener
import org.kohsuke.stapler.StaplerRequest
import org.kohsuke.stapler.StaplerResponse

String PROVISIONER_BRIDGE_PARAMETERS = 'e30='

/** Thrown by an op that cannot be done; becomes its result. */
@CompileStatic
class ProvisionerBridgeRefusal extends RuntimeException {
    final int code

    ProvisionerBridgeRefusal(int code, String message) {
        super(message)
        this.code = code
    }
}

/** Why the queue may not give an item to a node of ours. One object for all: the queue asks for every pair. */
@CompileStatic
class ProvisionerBridgeReserved extends CauseOfBlockage {
    @Override
    String getShortDescription() { 'This agent is reserved for another build' }
}

/** Why a light-weight task may not run yet. */
@CompileStatic
class ProvisionerBridgeStrays extends CauseOfBlockage {
    @Override
    String getShortDescription() { 'A light-weight task would land on the agent of another build; it waits until that is gone' }
}

/** What the launch log of one request is written to; lines wait here until the build has a console. */
@CompileStatic
class ProvisionerBridgeConsole {
    static final String PREFIX = '[provisioner] '
    static final int MOST_WAITING = 2000
    static final int MOST_TOLD = 10000

    /** The step context of a waiting Pipeline `node` step; null for everything else. */
    private final Object stepContext
    private final ArrayDeque<String> waiting = new ArrayDeque<String>()
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
                byte[] bytes = drain().collect { String line -> PREFIX + line + '\n' }.join('').getBytes('UTF-8')
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
                ProvisionerBridge.complain('writing to the log of a node step', problem)
            }
        } as Runnable)
    }

    /** Write what waits into the log of the `node` step, on this thread. */
    void drainToStep() {
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

/** One node of ours as this bridge knows it. Never saved. */
@CompileStatic
class ProvisionerBridgeAgent {
    final String name
    final String owner
    volatile long queueId = -1L
    volatile long sinceMs = -1L
    volatile boolean started
    volatile boolean finished
    volatile boolean barred
    volatile long runningId = -1L
    volatile String buildUrl
    volatile String task  // the URL of what it was made for
    volatile long registeredMs
    volatile long onlineMs
    volatile long startedMs
    volatile List<String> labelNames = Collections.<String> emptyList()
    volatile Set<LabelAtom> labels = Collections.<LabelAtom> emptySet()
    volatile ProvisionerBridgeConsole console = new ProvisionerBridgeConsole(null)

    ProvisionerBridgeAgent(String name, String owner) {
        this.name = name
        this.owner = owner
    }

    void label(Collection<?> names) {
        List<String> texts = []
        Set<LabelAtom> atoms = new LinkedHashSet<LabelAtom>()
        for (Object each : names) {
            String text = String.valueOf(each)
            texts.add(text)
            atoms.add(Jenkins.get().getLabelAtom(text))
        }
        labelNames = Collections.unmodifiableList(texts)
        labels = Collections.unmodifiableSet(atoms)
    }

    boolean isFor(Queue.Item item) { queueId == item.getId() && sinceMs == item.getInQueueSince() }

    boolean mayTake(Queue.BuildableItem item) { !started && !finished && !barred && isFor(item) }

    /** How it came, in one sentence; without figures where this installation did not see it from the start. */
    String connected() {
        return 'Agent ' + name + ' connected' +
            (registeredMs > 0L ? ' ' + ProvisionerBridge.seconds(onlineMs - registeredMs) + ' after its registration' : '')
    }

    /** The last line of its build's console. */
    String phases() {
        if (registeredMs == 0L || onlineMs == 0L || startedMs == 0L) return 'Agent ' + name + ' is done'
        return 'Agent ' + name + ' is done: connected in ' + ProvisionerBridge.seconds(onlineMs - registeredMs) +
            ', build taken in ' + ProvisionerBridge.seconds(Math.max(0L, startedMs - onlineMs)) +
            ', ran for ' + ProvisionerBridge.seconds(System.currentTimeMillis() - startedMs)
    }

    /** Plain JDK values only: read by the classes of a later installation. */
    Map<String, Object> export() {
        Map<String, Object> state = new HashMap<String, Object>()
        state.putAll([name: name, owner: owner, queueId: queueId, sinceMs: sinceMs, started: started,
                      finished: finished, barred: barred, runningId: runningId, buildUrl: buildUrl, task: task,
                      registeredMs: registeredMs, onlineMs: onlineMs, startedMs: startedMs,
                      labels: new ArrayList<String>(labelNames), lines: console.isPipeline() ? [] : console.drain()])
        return state
    }

    static ProvisionerBridgeAgent restore(Map<String, Object> state) {
        ProvisionerBridgeAgent agent = new ProvisionerBridgeAgent((String) state.get('name'), (String) state.get('owner'))
        agent.queueId = (Long) state.get('queueId')
        agent.sinceMs = (Long) state.get('sinceMs')
        agent.started = (Boolean) state.get('started')
        agent.finished = (Boolean) state.get('finished')
        agent.barred = (Boolean) state.get('barred')
        agent.runningId = (Long) state.get('runningId')
        agent.buildUrl = (String) state.get('buildUrl')
        agent.task = (String) state.get('task')
        agent.registeredMs = (Long) state.get('registeredMs')
        agent.onlineMs = (Long) state.get('onlineMs')
        agent.startedMs = (Long) state.get('startedMs')
        agent.label((Collection) state.get('labels'))
        agent.console.add((Collection) state.get('lines'))
        return agent
    }
}

/** What the Pipeline plugins keep to themselves. They may not be installed, so nothing here names their classes. */
class ProvisionerBridgePipeline {
    static final String TASK = 'org.jenkinsci.plugins.workflow.support.steps.ExecutorStepExecution$PlaceholderTask'
    static final String CAUSE = 'org.jenkinsci.plugins.workflow.support.steps.ExecutorStepExecution$RemovedNodeCause'

    @CompileStatic
    static boolean isNodeStep(Object task) { return task != null && TASK == task.getClass().getName() }

    @CompileStatic
    private static Object field(Object task, String name) {
        Field field = task.getClass().getDeclaredField(name)
        field.setAccessible(true)
        return field.get(task)
    }

    @CompileStatic
    static Object context(Object task) { return field(task, 'context') }

    /** `folder/job#3`: from the field, since asking the task may load the run. */
    @CompileStatic
    static String runId(Object task) { return (String) field(task, 'runId') }

    /** A `node` body that a restart of the controller interrupted, on its way back to its own agent. */
    @CompileStatic
    static boolean returnsTo(Object task, String node) {
        if (!isNodeStep(task)) return false
        return field(task, 'cookie') != null && node == field(task, 'label')
    }

    static Object get(Object context, Class<?> what) { return context.get(what) }

    static void failStep(Object context, Throwable problem) { context.onFailure(problem) }

    /**
     * Tell, once, that the body of a `node` step has ended, before the script goes on: its executor hears of that
     * only later. The listener is the running execution's, and not saved with it. May wait for the run to be loaded.
     */
    static void whenBodyEnds(Object context, Runnable ended) {
        def loader = context.class.classLoader
        def kind = loader.loadClass('org.jenkinsci.plugins.workflow.flow.GraphListener$Synchronous')
        def blockEnd = loader.loadClass('org.jenkinsci.plugins.workflow.graph.BlockEndNode')
        def execution = context.get(loader.loadClass('org.jenkinsci.plugins.workflow.flow.FlowExecution'))
        def step = context.get(loader.loadClass('org.jenkinsci.plugins.workflow.graph.FlowNode'))
        if (execution == null || step == null) return
        def handler = { Object listener, Method method, Object[] arguments ->
            if (method.name == 'equals') return listener.is(arguments[0])
            if (method.name == 'hashCode') return System.identityHashCode(listener)
            if (method.name == 'toString') return 'provisioner bridge'
            def node = arguments[0]
            if (blockEnd.isInstance(node) && node.startNode.parents.any { it.id == step.id }) {
                execution.removeListener(listener)
                ended.run()
            }
            return null
        } as InvocationHandler
        execution.addListener(Proxy.newProxyInstance(kind.classLoader, [kind] as Class[], handler))
    }

    /** End the `node` bodies on a node at once: Jenkins itself would wait five minutes for it to come back. */
    static void interrupt(Computer computer) {
        computer.executors.each { Executor executor ->
            def executable = executor.currentExecutable
            if (executable != null && isNodeStep(executable.parent)) {
                def cause = executable.class.classLoader.loadClass(CAUSE).getDeclaredConstructor().newInstance()
                executor.interrupt(Result.ABORTED, cause)
            }
        }
    }
}

/** A queue item in the words of the protocol, with what decides who may read it. */
@CompileStatic
class ProvisionerBridgeItem {
    final Map<String, Object> json
    final Map<String, String> parameters
    final Item job

    private ProvisionerBridgeItem(Map<String, Object> json, Map<String, String> parameters, Item job) {
        this.json = json
        this.parameters = parameters
        this.job = job
    }

    static ProvisionerBridgeItem of(Queue.Item item) {
        Queue.Task task = item.task
        String url
        String buildUrl = null
        String kind
        Item job = null
        ParametersAction given = item.getAction(ParametersAction)
        if (ProvisionerBridgePipeline.isNodeStep(task)) {
            kind = 'pipeline'
            String runId = ProvisionerBridgePipeline.runId(task)
            int hash = runId.lastIndexOf('#')
            job = Jenkins.get().getItemByFullName(runId.substring(0, hash))
            int number = Integer.parseInt(runId.substring(hash + 1))
            buildUrl = (job == null ? '' : job.getUrl()) + number + '/'
            url = buildUrl
            if (job instanceof Job) {
                Run<?, ?> run = ((Job) job).getBuildByNumber(number)
                given = run == null ? null : run.getAction(ParametersAction)
            }
        } else {
            kind = task instanceof AbstractProject ? 'freestyle' : 'other'
            if (task instanceof Item) job = (Item) task
            url = task.getUrl()
        }
        Item named = job
        while (named != null && !(named instanceof TopLevelItem) && named.getParent() instanceof Item) {
            named = (Item) named.getParent()  // the cell of a matrix is known by its matrix job
        }
        Map<String, String> parameters = new TreeMap<String, String>()
        if (given != null) {
            for (ParameterValue value : given.getAllParameters()) {
                Object content = value == null || value.isSensitive() ? null : value.getValue()
                if (content instanceof String || content instanceof Boolean || content instanceof Number) {
                    parameters.put(value.getName(), String.valueOf(content))
                }
            }
        }
        Label label = item.getAssignedLabel()
        Map<String, Object> json = new LinkedHashMap<String, Object>()
        json.put('id', item.getId())
        json.put('since_ms', item.getInQueueSince())
        json.put('buildable_ms', item instanceof Queue.BuildableItem ? ((Queue.BuildableItem) item).buildableStartMilliseconds : null)
        json.put('task', url)
        json.put('job', named == null ? task.getName() : named.getFullName())
        json.put('kind', kind)
        json.put('label', label == null ? null : label.getExpression())
        json.put('build_url', buildUrl)
        json.put('why', item.getWhy())
        return new ProvisionerBridgeItem(json, parameters, job)
    }

    /** For one reader: only the parameters that it named. */
    Map<String, Object> forReader(Set<String> names) {
        Map<String, Object> out = new LinkedHashMap<String, Object>(json)
        Map<String, String> shown = new LinkedHashMap<String, String>()
        for (String name : names) {
            String value = parameters.get(name)
            if (value != null) shown.put(name, value)
        }
        out.put('parameters', shown)
        return out
    }
}

/** Something that happened; `owner` null means that it is for every reader. */
@CompileStatic
class ProvisionerBridgeEvent {
    final String owner
    final Map<String, Object> fields
    Queue.Item raw
    volatile ProvisionerBridgeItem item
    long seq

    ProvisionerBridgeEvent(String owner, Map<String, Object> fields, Queue.Item raw) {
        this.owner = owner
        this.fields = fields
        this.raw = raw
    }
}

/** A build record for an item that never got an agent: it writes why, and ends NOT_BUILT. */
@CompileStatic
class ProvisionerBridgeNotBuilt implements SubTask, Queue.Executable {
    private final AbstractProject<?, ?> project
    private final Queue.BuildableItem item
    private final List<String> lines
    private WorkUnitContext context

    ProvisionerBridgeNotBuilt(AbstractProject<?, ?> project, Queue.BuildableItem item, List<String> lines) {
        this.project = project
        this.item = item
        this.lines = lines
    }

    /**
     * Take the item out of the queue and run this in its place, on an executor of the moment, as light-weight
     * tasks do: a matrix cell wants an executor thread, and listeners see an ordinary build.
     * Call it with the queue lock held.
     */
    boolean takeOver() {
        Method leave = Queue.Item.getDeclaredMethod('leave', Queue)
        Method start = Computer.getDeclaredMethod('startFlyWeightTask', WorkUnit)
        leave.setAccessible(true)
        start.setAccessible(true)
        Computer host = Jenkins.get().toComputer()
        if (host == null) throw new IllegalStateException('the built-in node has no computer')
        if (!leave.invoke(item, Queue.getInstance())) return false
        context = new WorkUnitContext(item)
        start.invoke(host, context.createWorkUnit(this))
        return true
    }

    @Override
    Queue.Executable createExecutable() { return this }

    @Override
    String getDisplayName() { return project.getDisplayName() }

    @Override
    Queue.Task getOwnerTask() { return project }

    @Override
    SubTask getParent() { return this }

    /** Both interfaces have a default for it, so the class must choose. */
    @Override
    long getEstimatedDuration() { return -1L }

    @Override
    void run() {
        AsyncFutureImpl<Queue.Executable> future = (AsyncFutureImpl<Queue.Executable>) item.getFuture()
        try {
            Queue.Executable build
            ACLContext system = ACL.as2(ACL.SYSTEM2)
            try {
                build = project.createExecutable()
            } finally {
                system.close()
            }
            if (!(build instanceof Run)) {
                future.setAsCancelled()  // the job is disabled by now
                return
            }
            Run<?, ?> record = (Run<?, ?>) build
            for (Action action : context.actions) record.addAction(action)
            context.getPrimaryWorkUnit().setExecutable(build)
            ((AsyncFutureImpl<Queue.Executable>) item.getFuture().getStartCondition()).set(build)
            Method execute = Run.getDeclaredMethod('execute', Run.RunExecution)
            execute.setAccessible(true)
            execute.invoke(record, new ProvisionerBridgeNotBuiltRun(record, lines))
            future.set(build)
        } catch (Throwable problem) {
            ProvisionerBridge.complain("ending queue item ${item.getId()} as NOT_BUILT", problem)
            future.set(problem)
        }
    }
}

/** What such a build does. */
class ProvisionerBridgeNotBuiltRun extends Run.RunExecution {
    private final List<String> lines

    ProvisionerBridgeNotBuiltRun(Run build, List<String> lines) {
        super(build)
        this.lines = lines
    }

    @Override
    Result run(BuildListener listener) {
        lines.each { listener.logger.println(ProvisionerBridgeConsole.PREFIX + it) }
        return Result.NOT_BUILT
    }

    @Override
    void post(BuildListener listener) {}

    @Override
    void cleanUp(BuildListener listener) {}
}

/** The state of one installation, and the ops on it. */
@CompileStatic
class ProvisionerBridge {
    static final String VERSION = '1.0.0'
    static final int PROTOCOL = 1
    static final String MARK = 'jenkins-provisioner.owner='
    static final int RING = 5000
    static final int INBOUND = 50000
    static final int MOST_READERS = 32
    static final Logger LOG = Logger.getLogger('provisioner.bridge')

    final String epoch = UUID.randomUUID().toString()
    final Map<String, Object> parameters
    final ConcurrentHashMap<String, ProvisionerBridgeAgent> agents = new ConcurrentHashMap<>()
    final ConcurrentHashMap<String, ProvisionerBridgeConsole> consoles = new ConcurrentHashMap<>()
    final ConcurrentHashMap<String, Set<String>> parameterNames = new ConcurrentHashMap<>()
    final AtomicInteger readers = new AtomicInteger()
    final AtomicLong eventsLost = new AtomicLong()
    private final LinkedBlockingQueue<ProvisionerBridgeEvent> inbound = new LinkedBlockingQueue<>(INBOUND)
    private final ArrayDeque<ProvisionerBridgeEvent> ring = new ArrayDeque<>()
    private long newest
    private volatile boolean stopped
    private Thread carrier

    ProvisionerBridge(Map<String, Object> parameters) { this.parameters = parameters }

    static void complain(String doing, Throwable problem) {
        try {
            LOG.log(Level.WARNING, 'provisioner bridge: ' + doing, problem)
        } catch (Throwable ignored) {
            // a logger that throws must not reach Jenkins either
        }
    }

    String getMode() { return (String) parameters.get('mode') }

    // ---- events

    /** Cheap, and safe inside the queue lock: what costs is done by the carrier. */
    void emit(String type, String owner, Map<String, Object> fields, Queue.Item raw) {
        Map<String, Object> all = new LinkedHashMap<String, Object>()
        all.put('type', type)
        if (fields != null) all.putAll(fields)
        if (!inbound.offer(new ProvisionerBridgeEvent(owner, all, raw))) eventsLost.incrementAndGet()
    }

    void startCarrier() {
        carrier = new Thread({ -> carry() } as Runnable, 'provisioner bridge events')
        carrier.setDaemon(true)
        carrier.start()
    }

    private void carry() {
        boolean quiet = Jenkins.get().isQuietingDown()
        long lostBefore = 0
        while (!stopped) {
            try {
                ProvisionerBridgeEvent event = inbound.poll(500L, TimeUnit.MILLISECONDS)
                Jenkins jenkins = Jenkins.getInstanceOrNull()
                if (jenkins == null) return
                if (quiet != jenkins.isQuietingDown()) {
                    quiet = !quiet
                    Map<String, Object> fields = new HashMap<String, Object>()
                    fields.put('type', 'quiet')
                    fields.put('on', quiet)
                    publish(new ProvisionerBridgeEvent(null, fields, null))
                }
                if (eventsLost.get() != lostBefore) {
                    lostBefore = eventsLost.get()
                    forget()
                }
                if (event == null) continue
                if (event.raw != null) {
                    ACLContext system = ACL.as2(ACL.SYSTEM2)
                    try {
                        event.item = ProvisionerBridgeItem.of(event.raw)
                    } finally {
                        system.close()
                    }
                    event.raw = null  // the buffer must not keep what has left the queue
                }
                publish(event)
            } catch (InterruptedException ignored) {
                // only `stop` interrupts, and the condition above sees it
            } catch (Throwable problem) {
                complain('carrying an event', problem)
                forget()
            }
        }
    }

    private void publish(ProvisionerBridgeEvent event) {
        synchronized (ring) {
            newest++
            event.seq = newest
            ring.addLast(event)
            while (ring.size() > RING) ring.removeFirst()
            ring.notifyAll()
        }
    }

    /** Something was lost: every reader starts again from a snapshot. */
    private void forget() {
        synchronized (ring) {
            newest++
            ring.clear()
            ring.notifyAll()
        }
    }

    long newestSeq() { synchronized (ring) { return newest } }

    void stop() {
        stopped = true
        if (carrier != null) carrier.interrupt()
        synchronized (ring) { ring.notifyAll() }
    }

    boolean isStopped() { return stopped }

    /** Wait until there is something newer than `since` for this reader; never holds a lock while it writes. */
    Map<String, Object> read(String owner, String wantedEpoch, long since, long waitMs, Closure<Boolean> mayRead) {
        long deadline = System.nanoTime() + waitMs * 1000000L
        long seen = since
        while (true) {
            List<ProvisionerBridgeEvent> fresh = new ArrayList<ProvisionerBridgeEvent>()
            long upTo
            synchronized (ring) {
                while (true) {
                    long oldest = ring.isEmpty() ? newest + 1 : ring.peekFirst().seq
                    if (wantedEpoch != epoch || stopped || seen > newest || seen < oldest - 1) {
                        return [resync: true, epoch: epoch, seq: newest] as Map<String, Object>
                    }
                    if (seen < newest) break
                    long leftMs = (deadline - System.nanoTime()).intdiv(1000000L) as long
                    if (leftMs <= 0) return [epoch: epoch, seq: newest, events: []] as Map<String, Object>
                    ring.wait(leftMs)
                }
                Iterator<ProvisionerBridgeEvent> backwards = ring.descendingIterator()
                while (backwards.hasNext()) {
                    ProvisionerBridgeEvent event = backwards.next()
                    if (event.seq <= seen) break
                    fresh.add(event)
                }
                upTo = newest
            }
            Collections.reverse(fresh)
            Set<String> names = namesFor(owner)
            List<Map<String, Object>> shown = new ArrayList<Map<String, Object>>()
            for (ProvisionerBridgeEvent event : fresh) {
                if (event.owner != null && event.owner != owner) continue
                if (event.item != null && !mayRead.call(event.item)) continue
                Map<String, Object> out = new LinkedHashMap<String, Object>()
                out.put('seq', event.seq)
                out.putAll(event.fields)
                if (event.item != null) out.put('item', event.item.forReader(names))
                shown.add(out)
            }
            if (!shown.isEmpty()) return [epoch: epoch, seq: upTo, events: shown] as Map<String, Object>
            seen = upTo
        }
    }

    Set<String> namesFor(String owner) {
        Set<String> names = parameterNames.get(owner)
        return names == null ? Collections.<String> emptySet() : names
    }

    // ---- nodes

    static String mark(String owner, String name) { return MARK + owner + ' jenkins-provisioner.agent=' + name }

    static boolean isMarked(Node node) {
        String description = node.getNodeDescription()
        return description != null && description.startsWith(MARK)
    }

    static boolean isOf(Node node, String owner) {
        String description = node.getNodeDescription()
        return description != null && description.startsWith(MARK + owner + ' ')
    }

    private static Node ownNode(String name, String owner) {
        Node node = Jenkins.get().getNode(name)
        if (node != null && !isOf(node, owner)) {
            throw new ProvisionerBridgeRefusal(409, "node ${name} exists and does not carry the mark of owner ${owner}")
        }
        return node
    }

    private static String text(Map<String, Object> op, String key) {
        Object value = op.get(key)
        if (!(value instanceof String) || ((String) value).isEmpty()) {
            throw new ProvisionerBridgeRefusal(400, "${key} must be a text, in op ${op.get('op')}")
        }
        return (String) value
    }

    private static List<?> list(Map<String, Object> op, String key) {
        Object value = op.get(key)
        if (value == null) return Collections.emptyList()
        if (!(value instanceof List)) throw new ProvisionerBridgeRefusal(400, "${key} must be a list, in op ${op.get('op')}")
        return (List<?>) value
    }

    private static Map<String, Object> request(Map<String, Object> op, boolean needed) {
        Object value = op.get('request')
        if (value instanceof Map && ((Map) value).get('id') instanceof Number && ((Map) value).get('since_ms') instanceof Number) {
            return (Map<String, Object>) value
        }
        if (value == null && !needed) return null
        throw new ProvisionerBridgeRefusal(400, "request must hold id and since_ms, in op ${op.get('op')}")
    }

    private static Queue.Item queued(Map<String, Object> request) {
        Queue.Item item = Queue.getInstance().getItem(((Number) request.get('id')).longValue())
        if (item == null || item instanceof Queue.LeftItem) return null
        return item.getInQueueSince() == ((Number) request.get('since_ms')).longValue() ? item : null
    }

    /** The launch log of a request; made at the first line, dropped when the item leaves without an agent. */
    private ProvisionerBridgeConsole consoleOf(Map<String, Object> request) {
        String key = String.valueOf(request.get('id')) + '/' + request.get('since_ms')
        ProvisionerBridgeConsole console = consoles.get(key)
        if (console != null) return console
        Queue.Item item = queued(request)
        Object context = item != null && ProvisionerBridgePipeline.isNodeStep(item.task) ? ProvisionerBridgePipeline.context(item.task) : null
        ProvisionerBridgeConsole made = new ProvisionerBridgeConsole(context)
        if (item == null) return made
        ProvisionerBridgeConsole there = consoles.putIfAbsent(key, made)
        return there == null ? made : there
    }

    private void dedicate(ProvisionerBridgeAgent agent, Map<String, Object> request) {
        ProvisionerBridgeConsole console = consoleOf(request)
        if (!console.is(agent.console)) {
            console.take(agent.console)
            agent.console = console
        }
        if (request.get('task') instanceof String) agent.task = (String) request.get('task')
        agent.sinceMs = ((Number) request.get('since_ms')).longValue()
        agent.queueId = ((Number) request.get('id')).longValue()
    }

    private static String secret(Node node) {
        Computer computer = node.toComputer()
        if (!(computer instanceof SlaveComputer)) throw new ProvisionerBridgeRefusal(500, "node ${node.getNodeName()} has no computer yet")
        return ((SlaveComputer) computer).getJnlpMac()
    }

    private Map<String, Object> register(String owner, Map<String, Object> op) {
        String name = text(op, 'name')
        String launcher = text(op, 'launcher')
        if (launcher != 'websocket' && launcher != 'tcp') {
            throw new ProvisionerBridgeRefusal(400, "launcher ${launcher} is not known to bridge ${VERSION}")
        }
        Map<String, Object> wanted = request(op, false)
        Node node = ownNode(name, owner)
        ProvisionerBridgeAgent fresh = new ProvisionerBridgeAgent(name, owner)
        ProvisionerBridgeAgent before = agents.putIfAbsent(name, fresh)
        ProvisionerBridgeAgent agent = before == null ? fresh : before
        if (before == null) agent.registeredMs = System.currentTimeMillis()
        agent.label(list(op, 'labels'))  // before the node is there: adding it refreshes what each label matches
        if (wanted != null) dedicate(agent, wanted)
        agent.console.add(list(op, 'lines'))
        try {
            if (node == null) {
                JNLPLauncher dial = new JNLPLauncher(true)
                dial.setWebSocket(launcher == 'websocket')
                DumbSlave made = new DumbSlave(name, text(op, 'remote_fs'), dial)
                made.setNodeDescription(mark(owner, name))
                made.setNumExecutors(1)
                made.setMode(Node.Mode.EXCLUSIVE)
                made.setLabelString('')
                made.setRetentionStrategy(RetentionStrategy.Always.INSTANCE)
                Jenkins.get().addNode(made)
                node = made
            } else {
                Jenkins.get().updateNode(node)
            }
        } catch (Throwable problem) {
            if (before == null) agents.remove(name, agent)
            throw problem
        }
        return [ok: true, secret: secret(node)] as Map<String, Object>
    }

    private Map<String, Object> adopt(String owner, Map<String, Object> op) {
        String name = text(op, 'name')
        Node node = ownNode(name, owner)
        if (node == null) return [ok: true, exists: false, secret: null] as Map<String, Object>
        ProvisionerBridgeAgent fresh = new ProvisionerBridgeAgent(name, owner)
        ProvisionerBridgeAgent before = agents.putIfAbsent(name, fresh)
        ProvisionerBridgeAgent agent = before == null ? fresh : before
        if (op.get('started') == true) agent.started = true
        agent.label(list(op, 'labels'))
        Map<String, Object> wanted = request(op, false)
        if (wanted != null) dedicate(agent, wanted)
        agent.console.add(list(op, 'lines'))
        resume(agent, node)
        Jenkins.get().updateNode(node)  // what each label matches is looked up anew
        return [ok: true, exists: true, secret: secret(node)] as Map<String, Object>
    }

    /** Take up what a node that this installation did not see start is doing now. */
    private void resume(ProvisionerBridgeAgent agent, Node node) {
        Computer computer = node.toComputer()
        if (computer == null) return
        if (computer.isOnline() && agent.onlineMs == 0L) agent.onlineMs = System.currentTimeMillis()
        for (Executor executor : computer.getAllExecutors()) {
            WorkUnit unit = executor.getCurrentWorkUnit()
            Queue.Executable executable = executor.getCurrentExecutable()
            if (unit == null || executable == null) continue
            begin(agent, executor, unit)
            // its listener was told to another installation, but the file of its console may be appended to
            if (executable instanceof Run) agent.console.detach((Run) executable)
        }
    }

    private Map<String, Object> give(String owner, Map<String, Object> op) {
        String name = text(op, 'name')
        ProvisionerBridgeAgent agent = agents.get(name)
        if (ownNode(name, owner) == null || agent == null) throw new ProvisionerBridgeRefusal(410, "node ${name} is not known to the bridge")
        dedicate(agent, request(op, true))
        wakeQueue()
        return [ok: true] as Map<String, Object>
    }

    /** Not compiled statically: the class file holds two methods of this name. */
    @CompileDynamic
    private static void wakeQueue() { Queue.getInstance().scheduleMaintenance() }

    private Map<String, Object> log(String owner, Map<String, Object> op) {
        Object name = op.get('name')
        ProvisionerBridgeAgent agent = name == null ? null : agents.get(String.valueOf(name))
        if (agent != null && agent.owner == owner) {
            agent.console.add(list(op, 'lines'))
            return [ok: true] as Map<String, Object>
        }
        Map<String, Object> wanted = request(op, name == null)
        if (wanted != null) consoleOf(wanted).add(list(op, 'lines'))
        return [ok: true] as Map<String, Object>
    }

    private Map<String, Object> bar(String owner, Map<String, Object> op) {
        String name = text(op, 'name')
        Node node = ownNode(name, owner)
        ProvisionerBridgeAgent agent = agents.get(name)
        if (agent != null) agent.barred = true
        Computer computer = node == null ? null : node.toComputer()
        if (computer instanceof SlaveComputer) ((SlaveComputer) computer).setAcceptingTasks(false)
        return [ok: true] as Map<String, Object>
    }

    private Map<String, Object> remove(String owner, Map<String, Object> op) {
        String name = text(op, 'name')
        Node node = ownNode(name, owner)
        ProvisionerBridgeAgent agent = agents.get(name)
        if (agent != null && agent.owner == owner) agent.console.add(list(op, 'lines'))
        if (node != null) {
            Computer computer = node.toComputer()
            // a body that has just ended still has its executor for a moment, and must not be told as interrupted
            if (computer != null && (agent == null || !agent.finished)) {
                try {
                    ProvisionerBridgePipeline.interrupt(computer)
                } catch (Throwable problem) {
                    complain("ending what runs on ${name}", problem)
                }
            }
            Jenkins.get().removeNode(node)
        }
        if (agent != null && agent.owner == owner) forgetAgent(agent)
        return [ok: true, existed: node != null] as Map<String, Object>
    }

    void forgetAgent(ProvisionerBridgeAgent agent) {
        agents.remove(agent.name, agent)
        consoles.values().remove(agent.console)
    }

    /** Whether a node that is not ours, or a cloud, could serve the item. */
    private static boolean othersServe(Queue.Item item) {
        Label label = item.getAssignedLabel()
        Jenkins jenkins = Jenkins.get()
        List<Node> nodes = new ArrayList<Node>(jenkins.getNodes())
        nodes.add(jenkins)
        for (Node node : nodes) {
            if (node.getNumExecutors() < 1 || isMarked(node)) continue
            if (label == null ? node.getMode() == Node.Mode.NORMAL : label.matches(node)) return true
        }
        Cloud.CloudState asked = new Cloud.CloudState(label, 0)
        for (Cloud cloud : jenkins.clouds) {
            if (cloud.canProvision(asked)) return true
        }
        return false
    }

    private Map<String, Object> explain(Map<String, Object> op) {
        Queue.Item item = queued(request(op, true))
        return [ok: true, others: item != null && othersServe(item)] as Map<String, Object>
    }

    private Map<String, Object> fail(Map<String, Object> op) {
        Map<String, Object> wanted = request(op, true)
        String message = text(op, 'message')
        String reason = text(op, 'reason')
        boolean retryable = op.get('retryable') == true
        Queue.Item item = queued(wanted)
        if (item == null) return outcome('gone', null)
        if (othersServe(item)) return outcome('spared', null)
        ProvisionerBridgeConsole console = consoleOf(wanted)
        List<Object> lines = new ArrayList<Object>(list(op, 'lines'))
        boolean told = false
        for (Object line : lines) if (String.valueOf(line).contains(message)) told = true
        if (!told) lines.add(message + ' (' + reason + ')')
        Queue queue = Queue.getInstance()
        if (console.isPipeline()) {
            Object context = ProvisionerBridgePipeline.context(item.task)
            console.addInAnyCase(lines)
            console.drainToStep()
            AbortException problem = new AbortException(message)
            if (retryable) problem.initCause(quiet(new ClosedChannelException()))
            quiet(problem)
            // In one hold of the queue lock, so that no executor can take the item in between; the first outcome
            // of a step counts, so the one that the cancelled item brings comes too late.
            boolean[] done = [false] as boolean[]
            Queue.withLock({ ->
                if (queued(wanted) != null && !isPending(item)) {
                    ProvisionerBridgePipeline.failStep(context, problem)
                    queue.cancel(item.task)
                    done[0] = true
                }
            } as Runnable)
            return done[0] ? outcome('step_failed', ProvisionerBridgeItem.of(item).json.get('build_url')) : outcome('gone', null)
        }
        if (item.task instanceof AbstractProject && item instanceof Queue.BuildableItem) {
            console.addInAnyCase(lines)
            ProvisionerBridgeNotBuilt record = new ProvisionerBridgeNotBuilt((AbstractProject) item.task, (Queue.BuildableItem) item, console.drain())
            boolean[] taken = [false] as boolean[]
            Queue.withLock({ ->
                if (queued(wanted) != null && !isPending(item)) taken[0] = record.takeOver()
            } as Runnable)
            return taken[0] ? outcome('not_built', urlOfStarted(item)) : outcome('gone', null)
        }
        return outcome(queue.cancel(item) ? 'cancelled' : 'gone', null)
    }

    /** It is saved with the run, and where it was made in this script says nothing to anybody. */
    private static Throwable quiet(Throwable problem) {
        problem.setStackTrace(new StackTraceElement[0])
        return problem
    }

    /** The record is made a moment later by its executor; the item has left in any case. */
    private static String urlOfStarted(Queue.Item item) {
        try {
            Object build = item.getFuture().getStartCondition().get(5L, TimeUnit.SECONDS)
            return build instanceof Run ? ((Run) build).getUrl() : null
        } catch (Exception problem) {
            complain("waiting for the record of queue item ${item.getId()}", problem)
            return null
        }
    }

    private static boolean isPending(Queue.Item item) {
        return item instanceof Queue.BuildableItem && ((Queue.BuildableItem) item).isPending()
    }

    private static Map<String, Object> outcome(String what, Object buildUrl) {
        return [ok: true, outcome: what, build_url: buildUrl] as Map<String, Object>
    }

    Map<String, Object> apply(String owner, Map<String, Object> op, Closure<Boolean> mayRead) {
        try {
            if (mode == 'init') refuseUnreadable(op, mayRead)
            switch (op.get('op')) {
                case 'register': return register(owner, op)
                case 'adopt': return adopt(owner, op)
                case 'give': return give(owner, op)
                case 'log': return log(owner, op)
                case 'bar': return bar(owner, op)
                case 'remove': return remove(owner, op)
                case 'fail': return fail(op)
                case 'explain': return explain(op)
                default: throw new ProvisionerBridgeRefusal(400, "no such op: ${op.get('op')}")
            }
        } catch (ProvisionerBridgeRefusal refusal) {
            return refused(refusal.code, refusal.getMessage())
        } catch (Failure failure) {
            return refused(400, failure.getMessage())
        } catch (Throwable problem) {
            complain("op ${op.get('op')}", problem)
            return refused(500, String.valueOf(problem))
        }
    }

    /** What the account may not see it may not end, write to or have served either. */
    private static void refuseUnreadable(Map<String, Object> op, Closure<Boolean> mayRead) {
        Map<String, Object> wanted = request(op, false)
        Queue.Item item = wanted == null ? null : queued(wanted)
        if (item != null && !mayRead.call(ProvisionerBridgeItem.of(item))) {
            throw new ProvisionerBridgeRefusal(403, "the account may not read the job of queue item ${item.getId()}")
        }
    }

    private static Map<String, Object> refused(int code, String error) {
        return [ok: false, code: code, error: error] as Map<String, Object>
    }

    // ---- the whole truth

    Map<String, Object> snapshot(String owner, Closure<Boolean> mayRead) {
        long seq = newestSeq()  // first: what happens from here on comes again as an event
        Set<String> names = namesFor(owner)
        List<Map<String, Object>> items = new ArrayList<Map<String, Object>>()
        List<Map<String, Object>> nodes = new ArrayList<Map<String, Object>>()
        Set<String> dedicated = new HashSet<String>()
        for (ProvisionerBridgeAgent agent : agents.values()) dedicated.add(agent.queueId + '/' + agent.sinceMs)
        for (Queue.Item item : Queue.getInstance().getItems()) {
            // a blocked item that has an agent (the controller is quieting down) must not look as if it had gone
            if (!(item instanceof Queue.BuildableItem) && !dedicated.contains(item.getId() + '/' + item.getInQueueSince())) continue
            try {
                ProvisionerBridgeItem told = ProvisionerBridgeItem.of(item)
                if (mayRead.call(told)) items.add(told.forReader(names))
            } catch (Throwable problem) {
                complain("describing queue item ${item.getId()}", problem)
            }
        }
        for (Node node : Jenkins.get().getNodes()) {
            if (isOf(node, owner)) nodes.add(view(node))
        }
        Jenkins jenkins = Jenkins.get()
        return [epoch: epoch, seq: seq, session: Jenkins.SESSION_HASH, version: Jenkins.VERSION, bridge: VERSION,
                mode: mode, quieting_down: jenkins.isQuietingDown(), items: items, nodes: nodes] as Map<String, Object>
    }

    private Map<String, Object> view(Node node) {
        ProvisionerBridgeAgent agent = agents.get(node.getNodeName())
        Computer computer = node.toComputer()
        OfflineCause cause = computer == null ? null : computer.getOfflineCause()
        boolean busy = false
        Long queueId = null
        String buildUrl = null
        if (computer != null) {
            for (Executor executor : computer.getAllExecutors()) {
                WorkUnit unit = executor.getCurrentWorkUnit()
                if (unit == null) continue
                busy = true
                queueId = unit.context.item.getId()
                buildUrl = buildUrlOf(executor, unit)
            }
        }
        if (agent != null && agent.started && !agent.finished && !busy && isOver(agent.task)) {
            agent.finished = true  // while no bridge was there to see it
            emit('finished', agent.owner, [node: agent.name, queue_id: agent.queueId, failed: false] as Map<String, Object>, null)
        }
        return [name: node.getNodeName(), online: computer != null && computer.isOnline(), busy: busy,
                accepting: computer != null && computer.isAcceptingTasks(), started: agent != null && agent.started,
                finished: agent != null && agent.finished, queue_id: queueId, build_url: buildUrl,
                offline_cause: cause == null ? null : cause.toString(), known: agent != null] as Map<String, Object>
    }

    /**
     * Whether the build that a node had taken has ended, when none of its executors is busy. Only a Pipeline goes on
     * without one: until its run is complete the body may come back after a restart of the controller.
     */
    private static boolean isOver(String task) {
        if (task == null) return false
        Matcher run = Pattern.compile('((?:job/[^/]+/)+)(\\d{1,9})/').matcher(task)
        if (!run.matches()) return true
        List<String> names = []
        for (String part : run.group(1).split('(^|/)job/')) {
            if (!part.isEmpty()) names.add(URLDecoder.decode(part.replace('/', '').replace('+', '%2B'), 'UTF-8'))
        }
        Item job = Jenkins.get().getItemByFullName(names.join('/'))
        Run<?, ?> build = job instanceof Job ? ((Job) job).getBuildByNumber(Integer.parseInt(run.group(2))) : null
        return build == null || !build.isBuilding()
    }

    private static String buildUrlOf(Executor executor, WorkUnit unit) {
        try {
            if (ProvisionerBridgePipeline.isNodeStep(unit.context.task)) {
                return (String) ProvisionerBridgeItem.of(unit.context.item).json.get('build_url')
            }
            Queue.Executable executable = executor.getCurrentExecutable()
            return executable instanceof Run ? ((Run) executable).getUrl() : null
        } catch (Throwable problem) {
            complain('naming a build', problem)
            return null
        }
    }

    // ---- what listeners tell

    void begin(ProvisionerBridgeAgent agent, Executor executor, WorkUnit unit) {
        agent.started = true
        agent.finished = false
        agent.runningId = unit.context.item.getId()
        if (agent.startedMs == 0L) agent.startedMs = System.currentTimeMillis()
        Computer computer = executor.getOwner()
        if (computer instanceof SlaveComputer) ((SlaveComputer) computer).setAcceptingTasks(false)
        agent.buildUrl = buildUrlOf(executor, unit)
        if (ProvisionerBridgePipeline.isNodeStep(unit.context.task) && !agent.console.isPipeline()) {
            // back after a restart of the controller, or taken up by a later installation
            ProvisionerBridgeConsole console = new ProvisionerBridgeConsole(ProvisionerBridgePipeline.context(unit.context.task))
            console.take(agent.console)
            agent.console = console
        }
        agent.console.lastly { -> agent.phases() }
        emit('started', agent.owner, [node: agent.name, queue_id: agent.runningId, build_url: agent.buildUrl] as Map<String, Object>, null)
    }

    void end(ProvisionerBridgeAgent agent, Executor executor, boolean problems) {
        if (Jenkins.get().isTerminating()) return  // a Pipeline's body goes on after the restart
        agent.finished = true
        Queue.Executable executable = executor.getCurrentExecutable()
        if (agent.console.isPipeline()) agent.console.finish(agent.phases())
        boolean failed = problems || (executable instanceof Run && ((Run) executable).getResult() == Result.FAILURE)
        emit('finished', agent.owner, [node: agent.name, queue_id: agent.runningId, failed: failed] as Map<String, Object>, null)
    }

    static String seconds(long ms) { return String.format(Locale.ROOT, '%.1f s', ms / 1000.0d) }

    // ---- in and out

    /** The live lists that hold something of ours while the bridge is in. */
    static Map<String, ExtensionList<?>> lists() {
        Map<String, ExtensionList<?>> all = new LinkedHashMap<String, ExtensionList<?>>()
        all.put('queue', ExtensionList.lookup(QueueListener))
        all.put('executor', ExtensionList.lookup(ExecutorListener))
        all.put('computer', ExtensionList.lookup(ComputerListener))
        all.put('node', ExtensionList.lookup(NodeListener))
        all.put('run', ExtensionList.lookup(RunListener))
        all.put('label', ExtensionList.lookup(LabelFinder))
        all.put('dispatcher', ExtensionList.lookup(QueueTaskDispatcher))
        return all
    }

    static boolean isOurs(Object extension) { return extension.getClass().getName().startsWith('ProvisionerBridge') }

    static Map<String, Integer> listeners() {
        Map<String, Integer> counts = new LinkedHashMap<String, Integer>()
        for (Map.Entry<String, ExtensionList<?>> entry : lists().entrySet()) {
            int count = 0
            for (Object each : entry.getValue()) if (isOurs(each)) count++
            counts.put(entry.getKey(), count)
        }
        return counts
    }

    Map<String, Object> export() {
        List<Map<String, Object>> exported = new ArrayList<Map<String, Object>>()
        for (ProvisionerBridgeAgent agent : agents.values()) exported.add(agent.export())
        Map<String, List<String>> names = new HashMap<String, List<String>>()
        for (Map.Entry<String, Set<String>> entry : parameterNames.entrySet()) {
            names.put(entry.getKey(), new ArrayList<String>(entry.getValue()))
        }
        return [agents: exported, names: names] as Map<String, Object>
    }

    /** Take over from an earlier installation; its pipelines' step contexts are found again in the queue. */
    void restore(Map<String, Object> state) {
        for (Object each : (List) state.get('agents')) {
            Map<String, Object> one = (Map<String, Object>) each
            Node node = Jenkins.get().getNode((String) one.get('name'))
            if (node == null) continue
            ProvisionerBridgeAgent agent = ProvisionerBridgeAgent.restore(one)
            if (agent.queueId >= 0) {
                dedicate(agent, [id: agent.queueId, since_ms: agent.sinceMs] as Map<String, Object>)
            }
            agents.put(agent.name, agent)
            resume(agent, node)
        }
        for (Map.Entry<String, List<String>> entry : ((Map<String, List<String>>) state.get('names')).entrySet()) {
            parameterNames.put(entry.getKey(), new LinkedHashSet<String>(entry.getValue()))
        }
    }
}

// ---- what is put into Jenkins' lists; each guards its own edge

/** The queue asks this for every waiting item and every idle node: one look-up, nothing more. */
@CompileStatic
class ProvisionerBridgeDispatcher extends QueueTaskDispatcher {
    private static final CauseOfBlockage RESERVED = new ProvisionerBridgeReserved()
    private static final CauseOfBlockage STRAYS = new ProvisionerBridgeStrays()
    private final ConcurrentHashMap<String, ProvisionerBridgeAgent> agents

    ProvisionerBridgeDispatcher(ProvisionerBridge bridge) { agents = bridge.agents }

    /**
     * Light-weight tasks (a matrix job's parent, a Pipeline's run) take any node with their label, busy or not, closed
     * or not, without asking `canTake`: they wait as long as one of ours is online that is there for another item.
     */
    @Override
    CauseOfBlockage canRun(Queue.Item item) {
        if (!(item.task instanceof Queue.FlyweightTask)) return null
        try {
            return mayStray(item) ? STRAYS : null
        } catch (Throwable problem) {
            ProvisionerBridge.complain("letting queue item ${item.getId()} run", problem)
            return null
        }
    }

    private boolean mayStray(Queue.Item item) {
        if (agents.isEmpty()) return false
        Label label = item.getAssignedLabel()
        if (label == null) {
            Computer builtIn = Jenkins.get().toComputer()
            if (builtIn != null && builtIn.isOnline() && builtIn.isAcceptingTasks()) return false  // it goes there
        }
        for (ProvisionerBridgeAgent agent : agents.values()) {
            if (agent.onlineMs == 0L || agent.isFor(item)) continue
            Node node = Jenkins.get().getNode(agent.name)
            Computer computer = node == null ? null : node.toComputer()
            if (computer == null || computer.isOffline()) continue
            if (label == null || label.matches(node)) return true
        }
        return false
    }

    @Override
    CauseOfBlockage canTake(Node node, Queue.BuildableItem item) {
        ProvisionerBridgeAgent agent = agents.get(node.getNodeName())
        if (agent == null) return null
        try {
            if (agent.mayTake(item) || ProvisionerBridgePipeline.returnsTo(item.task, agent.name)) return null
        } catch (Throwable problem) {
            ProvisionerBridge.complain("dispatching to ${agent.name}", problem)
        }
        return RESERVED
    }
}

@CompileStatic
class ProvisionerBridgeLabels extends LabelFinder {
    private final ConcurrentHashMap<String, ProvisionerBridgeAgent> agents

    ProvisionerBridgeLabels(ProvisionerBridge bridge) { agents = bridge.agents }

    @Override
    Collection<LabelAtom> findLabels(Node node) {
        ProvisionerBridgeAgent agent = agents.get(node.getNodeName())
        return agent == null ? Collections.<LabelAtom> emptyList() : agent.labels
    }
}

@CompileStatic
class ProvisionerBridgeQueue extends QueueListener {
    private final ProvisionerBridge bridge

    ProvisionerBridgeQueue(ProvisionerBridge bridge) { this.bridge = bridge }

    @Override
    void onEnterBuildable(Queue.BuildableItem item) {
        try {
            bridge.emit('buildable', null, null, item)
        } catch (Throwable problem) {
            ProvisionerBridge.complain('noting a buildable item', problem)
        }
    }

    @Override
    void onLeft(Queue.LeftItem item) {
        try {
            String node = null
            WorkUnitContext outcome = item.outcome
            if (outcome != null && !outcome.getWorkUnits().isEmpty()) {
                Executor executor = outcome.getPrimaryWorkUnit().getExecutor()
                if (executor != null) node = executor.getOwner().getName()
            }
            if (node == null || !bridge.agents.containsKey(node)) {
                bridge.consoles.remove(item.getId() + '/' + item.getInQueueSince())
            }
            bridge.emit('left', null, [id: item.getId(), since_ms: item.getInQueueSince(),
                                       cancelled: item.isCancelled(), node: node] as Map<String, Object>, null)
        } catch (Throwable problem) {
            ProvisionerBridge.complain('noting an item that left', problem)
        }
    }
}

@CompileStatic
class ProvisionerBridgeExecutors implements ExecutorListener {
    private final ProvisionerBridge bridge

    ProvisionerBridgeExecutors(ProvisionerBridge bridge) { this.bridge = bridge }

    @Override
    void taskAccepted(Executor executor, Queue.Task task) {
        try {
            ProvisionerBridgeAgent agent = bridge.agents.get(executor.getOwner().getName())
            if (agent == null) return
            bridge.begin(agent, executor, executor.getCurrentWorkUnit())
        } catch (Throwable problem) {
            ProvisionerBridge.complain('noting a started task', problem)
        }
    }

    @Override
    void taskCompleted(Executor executor, Queue.Task task, long durationMS) { completed(executor, false) }

    @Override
    void taskCompletedWithProblems(Executor executor, Queue.Task task, long durationMS, Throwable problems) {
        completed(executor, true)
    }

    private void completed(Executor executor, boolean problems) {
        try {
            ProvisionerBridgeAgent agent = bridge.agents.get(executor.getOwner().getName())
            if (agent != null) bridge.end(agent, executor, problems)
        } catch (Throwable problem) {
            ProvisionerBridge.complain('noting a finished task', problem)
        }
    }
}

@CompileStatic
class ProvisionerBridgeComputers extends ComputerListener {
    private final ProvisionerBridge bridge

    ProvisionerBridgeComputers(ProvisionerBridge bridge) { this.bridge = bridge }

    @Override
    void onOnline(Computer computer, TaskListener listener) {
        try {
            ProvisionerBridgeAgent agent = bridge.agents.get(computer.getName())
            if (agent == null) return
            if (agent.onlineMs == 0L) {
                agent.onlineMs = System.currentTimeMillis()
                agent.console.add([agent.connected()])
            }
            bridge.emit('online', agent.owner, [node: agent.name] as Map<String, Object>, null)
        } catch (Throwable problem) {
            ProvisionerBridge.complain('noting an agent online', problem)
        }
    }

    @Override
    void onOffline(Computer computer, OfflineCause cause) {
        try {
            ProvisionerBridgeAgent agent = bridge.agents.get(computer.getName())
            if (agent == null) return
            bridge.emit('offline', agent.owner, [node: agent.name, cause: cause == null ? '' : cause.toString()] as Map<String, Object>, null)
        } catch (Throwable problem) {
            ProvisionerBridge.complain('noting an agent offline', problem)
        }
    }
}

@CompileStatic
class ProvisionerBridgeNodes extends NodeListener {
    private final ProvisionerBridge bridge

    ProvisionerBridgeNodes(ProvisionerBridge bridge) { this.bridge = bridge }

    @Override
    protected void onDeleted(Node node) {
        try {
            ProvisionerBridgeAgent agent = bridge.agents.get(node.getNodeName())
            if (agent == null) return
            bridge.emit('gone', agent.owner, [node: agent.name] as Map<String, Object>, null)
            bridge.forgetAgent(agent)
        } catch (Throwable problem) {
            ProvisionerBridge.complain('noting a deleted node', problem)
        }
    }
}

/** The console of builds that have one of their own: freestyle, matrix cells. */
@CompileStatic
class ProvisionerBridgeRuns extends RunListener<Run> {
    private final ProvisionerBridge bridge

    ProvisionerBridgeRuns(ProvisionerBridge bridge) {
        super(Run)
        this.bridge = bridge
    }

    private ProvisionerBridgeAgent agentOf(Run run) {
        Executor executor = Executor.currentExecutor()
        return executor == null || !executor.getCurrentExecutable().is(run) ? null : bridge.agents.get(executor.getOwner().getName())
    }

    @Override
    void onStarted(Run run, TaskListener listener) {
        try {
            ProvisionerBridgeAgent agent = agentOf(run)
            if (agent != null) agent.console.attach(listener)
        } catch (Throwable problem) {
            ProvisionerBridge.complain('writing the launch log', problem)
        }
    }

    @Override
    void onCompleted(Run run, TaskListener listener) {
        try {
            ProvisionerBridgeAgent agent = agentOf(run)
            if (agent == null) return
            agent.console.finish(agent.phases())
            agent.console.detach(run)
        } catch (Throwable problem) {
            ProvisionerBridge.complain('ending the launch log', problem)
        }
    }
}

/** /provisioner-bridge/ */
class ProvisionerBridgeAction implements RootAction {
    static final int MOST_BYTES = 16 * 1024 * 1024
    private final ProvisionerBridge bridge

    ProvisionerBridgeAction(ProvisionerBridge bridge) { this.bridge = bridge }

    String getIconFileName() { null }

    String getDisplayName() { null }

    String getUrlName() { 'provisioner-bridge' }

    /** For the classes of a later installation. */
    Map<String, Object> handOver() { return bridge.export() }

    void stopBridge() { bridge.stop() }

    String bridgeVersion() { ProvisionerBridge.VERSION }

    void doStatus(StaplerRequest req, StaplerResponse rsp) {
        answer(req, rsp, 'GET') {
            admit(null)
            [bridge: ProvisionerBridge.VERSION, protocol: [ProvisionerBridge.PROTOCOL], mode: bridge.mode,
             session: Jenkins.SESSION_HASH, epoch: bridge.epoch, listeners: ProvisionerBridge.listeners(),
             events_lost: bridge.eventsLost.get(), readers: bridge.readers.get(),
             owners: bridge.mode == 'init' ? bridge.parameters.owners : bridge.parameterNames.keySet().sort()]
        }
    }

    void doHello(StaplerRequest req, StaplerResponse rsp) {
        answer(req, rsp, 'POST') {
            def body = read(req)
            def owner = admit(ownerOf(body))
            def names = body.parameters ?: []
            if (!(names instanceof List)) throw new ProvisionerBridgeRefusal(400, 'parameters must be a list of names')
            bridge.parameterNames.put(owner, new LinkedHashSet<String>(names.collect { String.valueOf(it) }))
            def mayRead = reader()
            asSystem { bridge.snapshot(owner, mayRead) }
        }
    }

    void doEvents(StaplerRequest req, StaplerResponse rsp) {
        answer(req, rsp, 'GET') {
            def owner = admit(req.getParameter('owner'))
            long since = number(req, 'since')
            long waitS = Math.min(55L, Math.max(0L, number(req, 'wait')))
            def mayRead = reader()
            if (bridge.readers.incrementAndGet() > ProvisionerBridge.MOST_READERS) {
                bridge.readers.decrementAndGet()
                throw new ProvisionerBridgeRefusal(503, "more than ${ProvisionerBridge.MOST_READERS} readers")
            }
            try {
                bridge.read(owner, req.getParameter('epoch'), since, waitS * 1000L, mayRead)
            } finally {
                bridge.readers.decrementAndGet()
            }
        }
    }

    void doApply(StaplerRequest req, StaplerResponse rsp) {
        answer(req, rsp, 'POST') {
            def body = read(req)
            def owner = admit(ownerOf(body))
            if (!(body.ops instanceof List)) throw new ProvisionerBridgeRefusal(400, 'ops must be a list')
            def bad = body.ops.find { !(it instanceof Map) }
            if (bad != null) throw new ProvisionerBridgeRefusal(400, 'an op must be an object')
            def mayRead = reader()
            asSystem { [results: body.ops.collect { bridge.apply(owner, it, mayRead) }] }
        }
    }

    /** Who may: in `script` mode administrators, in `init` mode the one account, for its own owner ids. */
    private String admit(String owner) {
        if (bridge.mode == 'init') {
            def id = Jenkins.authentication2.name
            if (id != bridge.parameters.user) throw new ProvisionerBridgeRefusal(403, "account ${id} is not the one this bridge serves")
            if (owner != null && !(owner in bridge.parameters.owners)) {
                throw new ProvisionerBridgeRefusal(403, "owner ${owner} is not one this bridge serves")
            }
        } else if (!Jenkins.get().hasPermission(Jenkins.ADMINISTER)) {
            throw new ProvisionerBridgeRefusal(403, "account ${Jenkins.authentication2.name} lacks Overall/Administer")
        }
        return owner
    }

    private static String ownerOf(body) {
        if (body.protocol != ProvisionerBridge.PROTOCOL) throw new ProvisionerBridgeRefusal(409, 'protocol')
        if (!(body.owner instanceof String) || !(body.owner ==~ /[A-Za-z0-9][A-Za-z0-9._-]*/)) {
            throw new ProvisionerBridgeRefusal(400, 'owner must be a plain id')
        }
        return body.owner
    }

    /** Decides for the account of this request, wherever it is asked. */
    private static Closure<Boolean> reader() {
        def who = Jenkins.authentication2
        return { ProvisionerBridgeItem item ->
            item.job != null ? item.job.getACL().hasPermission2(who, Item.READ) : Jenkins.get().getACL().hasPermission2(who, Jenkins.ADMINISTER)
        }
    }

    private static Map asSystem(Closure<Map> work) {
        def system = ACL.as2(ACL.SYSTEM2)
        try {
            return work()
        } finally {
            system.close()
        }
    }

    private static long number(StaplerRequest req, String name) {
        def text = req.getParameter(name)
        if (!(text ==~ /\d{1,18}/)) throw new ProvisionerBridgeRefusal(400, "${name} must be a number")
        return Long.parseLong(text)
    }

    private static Map read(StaplerRequest req) {
        def out = new ByteArrayOutputStream()
        def input = req.inputStream
        byte[] buffer = new byte[65536]
        int count
        while ((count = input.read(buffer)) > 0) {
            out.write(buffer, 0, count)
            if (out.size() > MOST_BYTES) throw new ProvisionerBridgeRefusal(400, "the body is longer than ${MOST_BYTES} bytes")
        }
        def body
        try {
            body = new JsonSlurperClassic().parseText(out.toString('UTF-8'))
        } catch (Exception problem) {
            throw new ProvisionerBridgeRefusal(400, 'the body is not JSON')
        }
        if (!(body instanceof Map)) throw new ProvisionerBridgeRefusal(400, 'the body must be an object')
        return body
    }

    private static void answer(StaplerRequest req, StaplerResponse rsp, String method, Closure<Map> work) {
        int status = 200
        def body
        try {
            if (req.method != method) throw new ProvisionerBridgeRefusal(405, "use ${method}")
            body = work()
        } catch (ProvisionerBridgeRefusal refusal) {
            status = refusal.code
            body = [error: refusal.message]
            if (status == 409) body.speaks = [ProvisionerBridge.PROTOCOL]
        } catch (Throwable problem) {
            ProvisionerBridge.complain("answering ${req.requestURI}", problem)
            status = 500
            body = [error: String.valueOf(problem)]
        }
        rsp.status = status
        rsp.contentType = 'application/json;charset=UTF-8'
        rsp.setHeader('Cache-Control', 'no-store')
        rsp.outputStream.write(JsonOutput.toJson(body).getBytes('UTF-8'))
    }
}

/** In and out. Classes of an earlier installation are others with the same names, so it goes by name. */
class ProvisionerBridgeInstaller {
    static findAction() { Jenkins.get().actions.find { it != null && it.class.name == 'ProvisionerBridgeAction' } }

    /** Everything of any installation that is in the controller: pairs of a list and what is in it. */
    static List<List> present() {
        def found = []
        ProvisionerBridge.lists().values().each { list ->
            list.findAll { ProvisionerBridge.isOurs(it) }.each { found << [list, it] }
        }
        def actions = Jenkins.get().actions
        actions.findAll { it != null && it.class.name == 'ProvisionerBridgeAction' }.each { found << [actions, it] }
        return found
    }

    static int takeOut(List<List> found) {
        // labels first, with what Jenkins remembers of them: a node whose dispatcher has gone must match nothing
        found.findAll { it[1] instanceof LabelFinder }.each { list, ours -> list.remove(ours) }
        forgetLabels()
        found.each { list, ours ->
            list.remove(ours)
            if (ours.class.name == 'ProvisionerBridgeAction') ours.stopBridge()
        }
        return found.size()
    }

    private static void forgetLabels() {
        Method trim = Jenkins.getDeclaredMethod('trimLabels')
        trim.setAccessible(true)
        trim.invoke(Jenkins.get())
    }

    static void putIn(ProvisionerBridge bridge) {
        def lists = ProvisionerBridge.lists()
        lists.dispatcher.add(new ProvisionerBridgeDispatcher(bridge))
        lists.label.add(new ProvisionerBridgeLabels(bridge))
        lists.queue.add(new ProvisionerBridgeQueue(bridge))
        lists.executor.add(new ProvisionerBridgeExecutors(bridge))
        lists.computer.add(new ProvisionerBridgeComputers(bridge))
        lists.node.add(new ProvisionerBridgeNodes(bridge))
        lists.run.add(new ProvisionerBridgeRuns(bridge))
        Jenkins.get().actions.add(new ProvisionerBridgeAction(bridge))
        bridge.startCarrier()
    }

    static List<Integer> parts(String version) { version.tokenize('.').collect { it as int } }

    static boolean isNewer(String one, String other) {
        def (a, b) = [parts(one), parts(other)]
        def differs = (0..<Math.min(a.size(), b.size())).find { a[it] != b[it] }
        return differs == null ? a.size() > b.size() : a[differs] > b[differs]
    }

    static Map install(Map parameters) {
        def before = findAction()
        if (parameters.verb == 'remove') return [removed: takeOut(present())]
        def found = before?.bridgeVersion()
        if (found != null && (isNewer(found, ProvisionerBridge.VERSION) || (found == ProvisionerBridge.VERSION && !parameters.replace))) {
            return [installed: false, found: found]
        }
        // the new one goes in beside the old one, so that there is no moment without a guard on our nodes
        def old = present()
        def bridge = new ProvisionerBridge(parameters)
        putIn(bridge)
        if (before != null) bridge.restore(before.handOver())
        if (old) takeOut(old)
        return [installed: true, found: found, bridge: ProvisionerBridge.VERSION, epoch: bridge.epoch]
    }
}

def provisionerBridgeParameters = new JsonSlurperClassic().parseText(new String(PROVISIONER_BRIDGE_PARAMETERS.decodeBase64(), 'UTF-8'))
println 'PROVISIONER-BRIDGE ' + JsonOutput.toJson(ProvisionerBridgeInstaller.install(provisionerBridgeParameters))
