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
            if (label == null || label.contains(node)) return true  // as the queue itself asks: known to the label
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
