/** The whole truth of one moment, for one owner. */
@CompileStatic
class ProvisionerBridgeViews {
    private final ProvisionerBridge bridge

    ProvisionerBridgeViews(ProvisionerBridge bridge) { this.bridge = bridge }

    Map<String, Object> snapshot(String owner, Closure<Boolean> mayRead) {
        long seq = bridge.events.newestSeq()  // first: what happens from here on comes again as an event
        Set<String> names = bridge.namesFor(owner)
        List<Map<String, Object>> items = new ArrayList<Map<String, Object>>()
        List<Map<String, Object>> nodes = new ArrayList<Map<String, Object>>()
        Set<String> dedicated = new HashSet<String>()
        for (ProvisionerBridgeAgent agent : bridge.agents.values()) dedicated.add(agent.queueId + '/' + agent.sinceMs)
        for (Queue.Item item : Queue.getInstance().getItems()) {
            // a blocked item that has an agent (the controller is quieting down) must not look as if it had gone
            if (!(item instanceof Queue.BuildableItem) && !dedicated.contains(item.getId() + '/' + item.getInQueueSince())) continue
            try {
                ProvisionerBridgeItem told = ProvisionerBridgeItem.of(item)
                if (mayRead.call(told)) items.add(told.forReader(names))
            } catch (Throwable problem) {
                ProvisionerBridge.complain("describing queue item ${item.getId()}", problem)
            }
        }
        for (Node node : Jenkins.get().getNodes()) {
            if (ProvisionerBridge.isOf(node, owner)) nodes.add(view(node))
        }
        Jenkins jenkins = Jenkins.get()
        return [epoch: bridge.epoch, seq: seq, session: Jenkins.SESSION_HASH, version: Jenkins.VERSION, bridge: ProvisionerBridge.VERSION,
                mode: bridge.mode, quieting_down: jenkins.isQuietingDown(), items: items, nodes: nodes] as Map<String, Object>
    }

    private Map<String, Object> view(Node node) {
        ProvisionerBridgeAgent agent = bridge.agents.get(node.getNodeName())
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
                buildUrl = ProvisionerBridge.buildUrlOf(executor, unit)
            }
        }
        if (agent != null && agent.started && !agent.finished && !busy && isOver(agent.task)) {
            agent.finished = true  // while no bridge was there to see it
            bridge.emit('finished', agent.owner, [node: agent.name, queue_id: agent.queueId, failed: false, lost: false] as Map<String, Object>, null)
        }
        return [name: node.getNodeName(), online: computer != null && computer.isOnline(), busy: busy,
                connected: computer != null && computer.getChannel() != null,
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
}
