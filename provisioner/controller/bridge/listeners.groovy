// What is put into Jenkins' lists of listeners; each guards its own edge.

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
            // Jenkins looks at its queue once all listeners are done, and one of branch-api takes half a second to
            // look for old workspaces; any other event of the queue would let the build start meanwhile as well
            ProvisionerBridgeVerbs.wakeQueue()
        } catch (Throwable problem) {
            ProvisionerBridge.complain('noting an agent online', problem)
        }
    }

    @Override
    void onOffline(Computer computer, OfflineCause cause) {
        try {
            ProvisionerBridgeAgent agent = bridge.agents.get(computer.getName())
            if (agent == null) return
            bridge.emit('offline', agent.owner, [node: agent.name, cause: cause == null ? '' : (cause.toString() ?: '')] as Map<String, Object>, null)
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
