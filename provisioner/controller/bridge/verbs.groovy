/** The fields of an op, each of the kind that it must be. */
@CompileStatic
class ProvisionerBridgeFields {
    static String text(Map<String, Object> op, String key) {
        Object value = op.get(key)
        if (!(value instanceof String) || ((String) value).isEmpty()) {
            throw new ProvisionerBridgeRefusal(400, "${key} must be a text, in op ${op.get('op')}")
        }
        return (String) value
    }

    static List<?> list(Map<String, Object> op, String key) {
        Object value = op.get(key)
        if (value == null) return Collections.emptyList()
        if (!(value instanceof List)) throw new ProvisionerBridgeRefusal(400, "${key} must be a list, in op ${op.get('op')}")
        return (List<?>) value
    }

    static Map<String, Object> request(Map<String, Object> op, boolean needed) {
        Object value = op.get('request')
        if (value instanceof Map && ((Map) value).get('id') instanceof Number && ((Map) value).get('since_ms') instanceof Number) {
            return (Map<String, Object>) value
        }
        if (value == null && !needed) return null
        throw new ProvisionerBridgeRefusal(400, "request must hold id and since_ms, in op ${op.get('op')}")
    }
}

/** The ops of the protocol: each is answered, whatever it was. */
@CompileStatic
class ProvisionerBridgeVerbs {
    private static final long PROVE_MS = 1000L  // how long a waiting agent may take to answer before it is given to a build

    private final ProvisionerBridge bridge
    private final ProvisionerBridgeFailures failures

    ProvisionerBridgeVerbs(ProvisionerBridge bridge) {
        this.bridge = bridge
        failures = new ProvisionerBridgeFailures(bridge)
    }

    Map<String, Object> apply(String owner, Map<String, Object> op, Closure<Boolean> mayRead) {
        try {
            if (bridge.mode == 'init') refuseUnreadable(op, mayRead)
            switch (op.get('op')) {
                case 'register': return register(owner, op)
                case 'adopt': return adopt(owner, op)
                case 'give': return give(owner, op)
                case 'log': return log(owner, op)
                case 'bar': return bar(owner, op)
                case 'remove': return remove(owner, op)
                case 'fail': return failures.fail(owner, op)
                case 'explain': return failures.explain(owner, op)
                case 'dial': return ProvisionerBridgeSsh.dial(ownNode(ProvisionerBridgeFields.text(op, 'name'), owner), owner, op)
                case 'forget': return [ok: true, existed: ProvisionerBridgeSsh.forget(owner, ProvisionerBridgeFields.text(op, 'name'))] as Map<String, Object>
                case 'credentials': return [ok: true, names: ProvisionerBridgeSsh.names(owner)] as Map<String, Object>
                case 'launch_log': return ProvisionerBridgeSsh.launchLog(ownNode(ProvisionerBridgeFields.text(op, 'name'), owner), op)
                default: throw new ProvisionerBridgeRefusal(400, "no such op: ${op.get('op')}")
            }
        } catch (ProvisionerBridgeRefusal refusal) {
            return refused(refusal.code, refusal.getMessage())
        } catch (Failure failure) {
            return refused(400, failure.getMessage())
        } catch (Throwable problem) {
            ProvisionerBridge.complain("op ${op.get('op')}", problem)
            return refused(500, String.valueOf(problem))
        }
    }

    /** What the account may not see it may not end, write to or have served either. */
    private static void refuseUnreadable(Map<String, Object> op, Closure<Boolean> mayRead) {
        Map<String, Object> wanted = ProvisionerBridgeFields.request(op, false)
        Queue.Item item = wanted == null ? null : ProvisionerBridge.queued(wanted)
        if (item != null && !mayRead.call(ProvisionerBridgeItem.of(item))) {
            throw new ProvisionerBridgeRefusal(403, "the account may not read the job of queue item ${item.getId()}")
        }
    }

    private static Map<String, Object> refused(int code, String error) {
        return [ok: false, code: code, error: error] as Map<String, Object>
    }

    private static Node ownNode(String name, String owner) {
        Node node = Jenkins.get().getNode(name)
        if (node != null && !ProvisionerBridge.isOf(node, owner)) {
            throw new ProvisionerBridgeRefusal(409, "node ${name} exists and does not carry the mark of owner ${owner}")
        }
        return node
    }

    private static String secret(Node node) {
        Computer computer = node.toComputer()
        if (!(computer instanceof SlaveComputer)) throw new ProvisionerBridgeRefusal(500, "node ${node.getNodeName()} has no computer yet")
        return ((SlaveComputer) computer).getJnlpMac()
    }

    static Node nodeOf(String owner, String name, String remoteFs, ComputerLauncher launcher) {
        DumbSlave made = new DumbSlave(name, remoteFs, launcher)
        made.setNodeDescription(ProvisionerBridge.mark(owner, name))
        made.setNumExecutors(1)
        made.setMode(Node.Mode.EXCLUSIVE)
        made.setLabelString('')
        made.setRetentionStrategy(RetentionStrategy.Always.INSTANCE)
        return made
    }

    private Map<String, Object> register(String owner, Map<String, Object> op) {
        String name = ProvisionerBridgeFields.text(op, 'name')
        String launcher = ProvisionerBridgeFields.text(op, 'launcher')
        if (!(launcher in ['websocket', 'tcp', 'ssh'])) {
            throw new ProvisionerBridgeRefusal(400, "launcher ${launcher} is not known to bridge ${ProvisionerBridge.VERSION}")
        }
        Map<String, Object> wanted = ProvisionerBridgeFields.request(op, false)
        Node node = ownNode(name, owner)
        ProvisionerBridgeAgent fresh = new ProvisionerBridgeAgent(name, owner)
        ProvisionerBridgeAgent before = bridge.agents.putIfAbsent(name, fresh)
        ProvisionerBridgeAgent agent = before == null ? fresh : before
        if (before == null) agent.registeredMs = System.currentTimeMillis()
        agent.label(ProvisionerBridgeFields.list(op, 'labels'))  // before the node is there: adding it refreshes what each label matches
        if (wanted != null) bridge.dedicate(agent, wanted)
        agent.console.add(ProvisionerBridgeFields.list(op, 'lines'))
        try {
            if (node == null) {
                JNLPLauncher dial = new JNLPLauncher(true)
                dial.setWebSocket(launcher == 'websocket')
                node = nodeOf(owner, name, ProvisionerBridgeFields.text(op, 'remote_fs'), dial)
                Jenkins.get().addNode(node)
            } else {
                Jenkins.get().updateNode(node)
            }
        } catch (Throwable problem) {
            if (before == null) bridge.agents.remove(name, agent)
            throw problem
        }
        return [ok: true, secret: secret(node)] as Map<String, Object>
    }

    private Map<String, Object> adopt(String owner, Map<String, Object> op) {
        String name = ProvisionerBridgeFields.text(op, 'name')
        Node node = ownNode(name, owner)
        if (node == null) return [ok: true, exists: false, secret: null] as Map<String, Object>
        ProvisionerBridgeAgent fresh = new ProvisionerBridgeAgent(name, owner)
        ProvisionerBridgeAgent before = bridge.agents.putIfAbsent(name, fresh)
        ProvisionerBridgeAgent agent = before == null ? fresh : before
        if (op.get('started') == true) agent.started = true
        agent.label(ProvisionerBridgeFields.list(op, 'labels'))
        Map<String, Object> wanted = ProvisionerBridgeFields.request(op, false)
        if (wanted != null) bridge.dedicate(agent, wanted)
        agent.console.add(ProvisionerBridgeFields.list(op, 'lines'))
        bridge.resume(agent, node)
        Jenkins.get().updateNode(node)  // what each label matches is looked up anew
        return [ok: true, exists: true, secret: secret(node)] as Map<String, Object>
    }

    private Map<String, Object> give(String owner, Map<String, Object> op) {
        String name = ProvisionerBridgeFields.text(op, 'name')
        ProvisionerBridgeAgent agent = bridge.agents.get(name)
        if (ownNode(name, owner) == null || agent == null) throw new ProvisionerBridgeRefusal(410, "node ${name} is not known to the bridge")
        Map<String, Object> wanted = ProvisionerBridgeFields.request(op, true)
        if (!answers(ownNode(name, owner))) throw new ProvisionerBridgeRefusal(410, "the agent on ${name} does not answer")
        bridge.dedicate(agent, wanted)
        wakeQueue()
        return [ok: true] as Map<String, Object>
    }

    /**
     * Whether the agent answers now: one that is frozen, or whose network is gone, looks online for minutes. It is
     * asked by what Jenkins' own ping thread sends, which every agent has.
     */
    private static boolean answers(Node node) {
        Computer computer = node.toComputer()
        VirtualChannel channel = computer == null ? null : computer.getChannel()
        if (channel == null) return false
        try {
            Constructor<?> ping = Class.forName('hudson.remoting.PingThread$Ping').getDeclaredConstructor()
            ping.setAccessible(true)
            channel.callAsync((Callable) ping.newInstance()).get(PROVE_MS, TimeUnit.MILLISECONDS)
            return true
        } catch (ReflectiveOperationException problem) {
            ProvisionerBridge.complain("asking ${node.getNodeName()} whether it answers", problem)
            return true  // this Jenkins has another ping: its word that the agent is online must do
        } catch (TimeoutException | ExecutionException | IOException problem) {
            return false
        }
    }

    /** Not compiled statically: the class file holds two methods of this name. */
    @CompileDynamic
    static void wakeQueue() { Queue.getInstance().scheduleMaintenance() }

    private Map<String, Object> log(String owner, Map<String, Object> op) {
        Object name = op.get('name')
        ProvisionerBridgeAgent agent = name == null ? null : bridge.agents.get(String.valueOf(name))
        if (agent != null && agent.owner == owner) {
            agent.console.add(ProvisionerBridgeFields.list(op, 'lines'))
            return [ok: true] as Map<String, Object>
        }
        Map<String, Object> wanted = ProvisionerBridgeFields.request(op, name == null)
        if (wanted != null) bridge.consoleOf(wanted).add(ProvisionerBridgeFields.list(op, 'lines'))
        return [ok: true] as Map<String, Object>
    }

    private Map<String, Object> bar(String owner, Map<String, Object> op) {
        String name = ProvisionerBridgeFields.text(op, 'name')
        Node node = ownNode(name, owner)
        ProvisionerBridgeAgent agent = bridge.agents.get(name)
        if (agent != null) agent.barred = true
        Computer computer = node == null ? null : node.toComputer()
        if (computer instanceof SlaveComputer) ((SlaveComputer) computer).setAcceptingTasks(false)
        return [ok: true] as Map<String, Object>
    }

    private Map<String, Object> remove(String owner, Map<String, Object> op) {
        String name = ProvisionerBridgeFields.text(op, 'name')
        Node node = ownNode(name, owner)
        ProvisionerBridgeAgent agent = bridge.agents.get(name)
        if (agent != null && agent.owner == owner) agent.console.add(ProvisionerBridgeFields.list(op, 'lines'))
        if (node != null) {
            Computer computer = node.toComputer()
            // a body that has just ended still has its executor for a moment, and must not be told as interrupted
            if (computer != null && (agent == null || !agent.finished)) {
                try {
                    // first, since with the body its run may end, and then nothing can be written any more
                    if (agent != null && agent.owner == owner) agent.console.flush()
                    ProvisionerBridgePipeline.interrupt(computer)
                } catch (Throwable problem) {
                    ProvisionerBridge.complain("ending what runs on ${name}", problem)
                }
            }
            Jenkins.get().removeNode(node)
        }
        if (agent != null && agent.owner == owner) bridge.forgetAgent(agent)
        if (op.get('credentials') == true) ProvisionerBridgeSsh.forget(owner, name)
        return [ok: true, existed: node != null] as Map<String, Object>
    }
}
