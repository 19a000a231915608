/** The state of one installation, and what Jenkins' listeners tell it. */
@CompileStatic
class ProvisionerBridge {
    static final String VERSION = '1.2.0'
    static final int PROTOCOL = 1
    static final String MARK = 'jenkins-provisioner.owner='
    static final int MOST_READERS = 32
    static final Logger LOG = Logger.getLogger('provisioner.bridge')

    final String epoch = UUID.randomUUID().toString()
    final Map<String, Object> parameters
    final ConcurrentHashMap<String, ProvisionerBridgeAgent> agents = new ConcurrentHashMap<>()
    final ConcurrentHashMap<String, ProvisionerBridgeConsole> consoles = new ConcurrentHashMap<>()
    final ConcurrentHashMap<String, Set<String>> parameterNames = new ConcurrentHashMap<>()
    final ProvisionerBridgeHolders holders = new ProvisionerBridgeHolders()
    final AtomicInteger readers = new AtomicInteger()
    final ProvisionerBridgeEvents events = new ProvisionerBridgeEvents(epoch)
    final ProvisionerBridgeVerbs verbs = new ProvisionerBridgeVerbs(this)
    final ProvisionerBridgeViews views = new ProvisionerBridgeViews(this)

    ProvisionerBridge(Map<String, Object> parameters) { this.parameters = parameters }

    static void complain(String doing, Throwable problem) {
        try {
            LOG.log(Level.WARNING, 'provisioner bridge: ' + doing, problem)
        } catch (Throwable ignored) {
            // a logger that throws must not reach Jenkins either
        }
    }

    String getMode() { return (String) parameters.get('mode') }

    /** A fingerprint of this script's text: two of one version may differ. */
    String getContent() { return (String) parameters.get('content') }

    /** Cheap, and safe inside the queue lock. */
    void emit(String type, String owner, Map<String, Object> fields, Queue.Item raw) { events.emit(type, owner, fields, raw) }

    Set<String> namesFor(String owner) {
        Set<String> names = parameterNames.get(owner)
        return names == null ? Collections.<String> emptySet() : names
    }

    static String mark(String owner, String name) { return MARK + owner + ' jenkins-provisioner.agent=' + name }

    static boolean isMarked(Node node) {
        String description = node.getNodeDescription()
        return description != null && description.startsWith(MARK)
    }

    static boolean isOf(Node node, String owner) {
        String description = node.getNodeDescription()
        return description != null && description.startsWith(MARK + owner + ' ')
    }

    static Queue.Item queued(Map<String, Object> request) {
        Queue.Item item = Queue.getInstance().getItem(((Number) request.get('id')).longValue())
        if (item == null || item instanceof Queue.LeftItem) return null
        return item.getInQueueSince() == ((Number) request.get('since_ms')).longValue() ? item : null
    }

    /** The launch log of a request; made at the first line, dropped when the item leaves without an agent. */
    ProvisionerBridgeConsole consoleOf(Map<String, Object> request) {
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

    void dedicate(ProvisionerBridgeAgent agent, Map<String, Object> request) {
        ProvisionerBridgeConsole console = consoleOf(request)
        if (!console.is(agent.console)) {
            console.take(agent.console)
            agent.console = console
        }
        if (request.get('task') instanceof String) agent.task = (String) request.get('task')
        agent.sinceMs = ((Number) request.get('since_ms')).longValue()
        agent.queueId = ((Number) request.get('id')).longValue()
    }

    /** Take up what a node that this installation did not see start is doing now. */
    void resume(ProvisionerBridgeAgent agent, Node node) {
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

    void forgetAgent(ProvisionerBridgeAgent agent) {
        agents.remove(agent.name, agent)
        // an item that still waits gets another agent, and its console tells of this one, too
        if (queued([id: agent.queueId, since_ms: agent.sinceMs] as Map<String, Object>) == null) {
            consoles.values().remove(agent.console)
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
        emit('finished', agent.owner, [node: agent.name, queue_id: agent.runningId, failed: failed,
                                       lost: isLost(executor.getOwner())] as Map<String, Object>, null)
    }

    /** Whether the connection has broken; a channel wakes those who wait for it before it tells its listeners. */
    private static boolean isLost(Computer computer) {
        VirtualChannel channel = computer.getChannel()
        return channel == null || (channel instanceof Channel && ((Channel) channel).isClosingOrClosed())
    }

    static String buildUrlOf(Executor executor, WorkUnit unit) {
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

    static String seconds(long ms) { return String.format(Locale.ROOT, '%.1f s', ms / 1000.0d) }

    // ---- from one installation to the next

    Map<String, Object> export() {
        List<Map<String, Object>> exported = new ArrayList<Map<String, Object>>()
        for (ProvisionerBridgeAgent agent : agents.values()) exported.add(agent.export())
        Map<String, List<String>> names = new HashMap<String, List<String>>()
        for (Map.Entry<String, Set<String>> entry : parameterNames.entrySet()) {
            names.put(entry.getKey(), new ArrayList<String>(entry.getValue()))
        }
        return [agents: exported, names: names, holders: holders.export()] as Map<String, Object>
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
        // whoever works under an owner id keeps it; 1.1.0 did not tell
        if (state.get('holders') != null) holders.restore((Map<String, Object>) state.get('holders'))
    }
}
