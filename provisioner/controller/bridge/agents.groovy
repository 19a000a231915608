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
