/** The live lists of Jenkins that hold something of ours while the bridge is in. */
@CompileStatic
class ProvisionerBridgeLists {
    static Map<String, ExtensionList<?>> all() {
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
        for (Map.Entry<String, ExtensionList<?>> entry : all().entrySet()) {
            int count = 0
            for (Object each : entry.getValue()) if (isOurs(each)) count++
            counts.put(entry.getKey(), count)
        }
        return counts
    }
}

/** In and out. Classes of an earlier installation are others with the same names, so it goes by name. */
class ProvisionerBridgeInstaller {
    static findAction() { Jenkins.get().actions.find { it != null && it.class.name == 'ProvisionerBridgeAction' } }

    /** Everything of any installation that is in the controller: pairs of a list and what is in it. */
    static List<List> present() {
        def found = []
        ProvisionerBridgeLists.all().values().each { list ->
            list.findAll { ProvisionerBridgeLists.isOurs(it) }.each { found << [list, it] }
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
        def lists = ProvisionerBridgeLists.all()
        lists.dispatcher.add(new ProvisionerBridgeDispatcher(bridge))
        lists.label.add(new ProvisionerBridgeLabels(bridge))
        lists.queue.add(new ProvisionerBridgeQueue(bridge))
        lists.executor.add(new ProvisionerBridgeExecutors(bridge))
        lists.computer.add(new ProvisionerBridgeComputers(bridge))
        lists.node.add(new ProvisionerBridgeNodes(bridge))
        lists.run.add(new ProvisionerBridgeRuns(bridge))
        Jenkins.get().actions.add(new ProvisionerBridgeAction(bridge))
        bridge.events.start()
    }

    static List<Integer> parts(String version) { version.tokenize('.').collect { it as int } }

    static boolean isNewer(String one, String other) {
        def (a, b) = [parts(one), parts(other)]
        def differs = (0..<Math.min(a.size(), b.size())).find { a[it] != b[it] }
        return differs == null ? a.size() > b.size() : a[differs] > b[differs]
    }

    /**
     * Why the one that is there stays, if it does. Of one version another text takes its place, but not from under
     * a provisioner that is at work with it: of two releases on one controller each would else put out the other's.
     */
    private static Map kept(before, Map parameters) {
        def found = before.bridgeVersion()
        if (isNewer(found, ProvisionerBridge.VERSION)) return [installed: false, found: found]
        if (found != ProvisionerBridge.VERSION || parameters.replace) return null
        if (before.bridgeContent() == parameters.content) return [installed: false, found: found]
        def users = before.usedByOthers(parameters.owner, parameters.holder)
        return users ? [installed: false, found: found, used_by: users] : null
    }

    /** One at a time: after a restart of the controller every provisioner comes at once. */
    static Map install(Map parameters) {
        synchronized (Jenkins.get().actions) { installAlone(parameters) }
    }

    private static Map installAlone(Map parameters) {
        def before = findAction()
        if (parameters.verb == 'remove') return [removed: takeOut(present())]
        def stays = before == null ? null : kept(before, parameters)
        if (stays != null) return stays
        def found = before?.bridgeVersion()
        // the new one goes in beside the old one, so that there is no moment without a guard on our nodes
        def old = present()
        def bridge = new ProvisionerBridge(parameters)
        putIn(bridge)
        if (before != null) bridge.restore(before.handOver())
        if (old) takeOut(old)
        // who put it in is at work with it from now on, unless another holds the owner id: that is told by its hello
        if (!(parameters.owner in bridge.holders.others(parameters.owner, parameters.holder))) {
            bridge.holders.hold(parameters.owner, parameters.holder)
        }
        return [installed: true, found: found, bridge: ProvisionerBridge.VERSION, epoch: bridge.epoch]
    }
}

def provisionerBridgeParameters = new JsonSlurperClassic().parseText(new String(PROVISIONER_BRIDGE_PARAMETERS.decodeBase64(), 'UTF-8'))
println 'PROVISIONER-BRIDGE ' + JsonOutput.toJson(ProvisionerBridgeInstaller.install(provisionerBridgeParameters))
