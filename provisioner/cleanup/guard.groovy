/*
 * The guard of long-lived nodes, inside a running controller. It is put in through the script console beside the
 * scheduler's own step, whose text stands before this one, and is gone after a restart of Jenkins.
 *
 * It bars a used node from builds that need a clean one, keeps a cleaning and every other build apart, sends the
 * builds of a cleanup job that cannot choose its node to the node that they name, and keeps a reserved node for one
 * queue item. Rules: nothing thrown into Jenkins' paths, nothing slow inside the queue lock, nothing of it in what
 * Jenkins saves, and only JDK values in what a later version takes over.
 */

/** What all parts know. `wards` by cleanup job: clean, marks, cared. `seats` by node: who has reserved it.
 * A mark is since when a clean node has been idle when it was made clean, 0 if its cleaning no longer counts; it
 * stays, whoever saves the node, as long as the node has the label.
 */
@groovy.transform.CompileStatic
class ProvisionerCleanGuard extends hudson.model.queue.QueueTaskDispatcher {
    final String version
    volatile Map<String, Map<String, Object>> wards = new HashMap<String, Map<String, Object>>()
    final java.util.concurrent.ConcurrentHashMap<String, Map<String, Object>> seats

    ProvisionerCleanGuard(String version, Map seats) {
        this.version = version
        this.seats = new java.util.concurrent.ConcurrentHashMap<String, Map<String, Object>>(seats)
    }

    /** Asked by the queue for each node and item, under its lock: for a node that is not ours a look-up, nothing more. */
    @Override
    hudson.model.queue.CauseOfBlockage canTake(hudson.model.Node node, hudson.model.Queue.BuildableItem item) {
        String name = node.nodeName
        Map<String, Object> seat = seats.get(name)
        if (seat != null) {
            return isFor(seat, item) && seat.get('taken') != true ? null : new ProvisionerCleanBlock(name + ' is reserved for another build')
        }
        for (Map.Entry<String, Map<String, Object>> ward : wards.entrySet()) {
            if (!((Collection) ward.value.get('cared')).contains(name) && !((Map) ward.value.get('marks')).containsKey(name)) continue
            try {
                hudson.model.queue.CauseOfBlockage cause = mayCome(ward.key, ward.value, node, item)
                if (cause != null) return cause
            } catch (Throwable problem) {
                complain('letting a build come to ' + name, problem)
                return new ProvisionerCleanBlock('whether ' + name + ' is clean cannot be told; see the log of Jenkins')
            }
        }
        return null
    }

    private static hudson.model.queue.CauseOfBlockage mayCome(
            String job, Map<String, Object> ward, hudson.model.Node node, hudson.model.Queue.BuildableItem item) {
        String name = node.nodeName
        hudson.model.Computer computer = node.toComputer()
        if (computer != null) {
            boolean cleans = jobOf(item.task) == job
            for (hudson.model.Executor executor : computer.executors) {
                hudson.model.Queue.Executable runs = executor.currentExecutable
                if (runs == null) continue
                if (cleans) return new ProvisionerCleanBlock(name + ' runs a build; it is cleaned when that has ended')
                if (jobOf(runs.parent.ownerTask) == job) return new ProvisionerCleanBlock(name + ' is being cleaned')
            }
        }
        Long mark = (Long) ((Map) ward.get('marks')).get(name)
        // whoever needs no clean node is let pass
        hudson.model.Label asked = mark == null ? null : item.assignedLabel
        if (asked == null) return null
        Set<hudson.model.labels.LabelAtom> others = new HashSet<hudson.model.labels.LabelAtom>(node.assignedLabels)
        for (hudson.model.labels.LabelAtom label : node.assignedLabels) if (label.name == ward.get('clean')) others.remove(label)
        if (asked.matches(others)) return null
        if (computer != null && computer.idle && computer.idleStartMilliseconds == mark.longValue()) return null
        return new ProvisionerCleanBlock(name + ' was used since its cleaning; it is cleaned first')
    }

    static String jobOf(hudson.model.Queue.Task task) {
        hudson.model.Queue.Task owner = task.ownerTask
        return owner instanceof hudson.model.Item ? ((hudson.model.Item) owner).fullName : null
    }

    static boolean isFor(Map<String, Object> seat, hudson.model.Queue.Item item) {
        return seat.get('id') == item.id && seat.get('since') == item.inQueueSince
    }

    /** The seat of what an executor runs, if it is what the node was reserved for. */
    Map<String, Object> seatOf(hudson.model.Executor executor) {
        Map<String, Object> seat = executor == null ? null : seats.get(executor.owner.name)
        hudson.model.queue.WorkUnit unit = seat == null ? null : executor.currentWorkUnit
        return unit != null && isFor(seat, unit.context.item) ? seat : null
    }

    /** A node was saved; call it with the queue lock held. */
    void saved(hudson.model.Node node) {
        Set<String> labels = new HashSet<String>()
        for (hudson.model.labels.LabelAtom label : hudson.model.Label.parse(node.labelString)) labels.add(label.name)
        Map<String, Map<String, Object>> all = new HashMap<String, Map<String, Object>>(wards)
        for (Map.Entry<String, Map<String, Object>> ward : wards.entrySet()) {
            Map<String, Long> marks = new HashMap<String, Long>((Map) ward.value.get('marks'))
            if (labels.contains(ward.value.get('clean')) || marks.remove(node.nodeName) == null) continue
            Map<String, Object> changed = new HashMap<String, Object>(ward.value)
            changed.put('marks', marks)
            all.put(ward.key, changed)
        }
        wards = all
    }

    static void complain(String doing, Throwable problem) {
        java.util.logging.Logger.getLogger('provisioner.cleanup').log(java.util.logging.Level.WARNING, 'provisioner cleanup: ' + doing, problem)
    }
}

@groovy.transform.CompileStatic
class ProvisionerCleanBlock extends hudson.model.queue.CauseOfBlockage {
    final String why
    ProvisionerCleanBlock(String why) { this.why = why }
    @Override
    String getShortDescription() { why }
}

/** What a reserved node answers to beside its own labels, so that the item it is reserved for fits; never stored. */
@groovy.transform.CompileStatic
class ProvisionerCleanLabels extends hudson.model.LabelFinder {
    private final ProvisionerCleanGuard guard

    ProvisionerCleanLabels(ProvisionerCleanGuard guard) { this.guard = guard }

    @Override
    Collection<hudson.model.labels.LabelAtom> findLabels(hudson.model.Node node) {
        Map<String, Object> seat = guard.seats.get(node.nodeName)
        if (seat == null || seat.get('taken') == true) return Collections.<hudson.model.labels.LabelAtom> emptyList()
        List<hudson.model.labels.LabelAtom> atoms = new ArrayList<hudson.model.labels.LabelAtom>()
        for (Object label : (List) seat.get('labels')) atoms.add(jenkins.model.Jenkins.get().getLabelAtom(String.valueOf(label)))
        return atoms
    }
}

/** A node that lost the label is no longer clean by anybody's word; whoever gives it back is believed until the next look. */
@groovy.transform.CompileStatic
class ProvisionerCleanNodes extends jenkins.model.NodeListener {
    private final ProvisionerCleanGuard guard

    ProvisionerCleanNodes(ProvisionerCleanGuard guard) { this.guard = guard }

    @Override
    protected void onUpdated(hudson.model.Node before, hudson.model.Node after) {
        try {
            hudson.model.Queue.withLock({ -> guard.saved(after) } as Runnable)
        } catch (Throwable problem) {
            ProvisionerCleanGuard.complain('noting a saved node', problem)
        }
    }
}

/** Where a build of the cleanup job goes that cannot say so itself. Asked anew each time, never stored. */
@groovy.transform.CompileStatic
class ProvisionerCleanPlaces extends jenkins.model.TransientActionFactory<hudson.model.Queue.Item> {
    private final ProvisionerCleanGuard guard

    ProvisionerCleanPlaces(ProvisionerCleanGuard guard) { this.guard = guard }

    @Override
    Class<hudson.model.Queue.Item> type() { hudson.model.Queue.Item }

    @Override
    Class<? extends hudson.model.Action> actionType() { hudson.model.labels.LabelAssignmentAction }

    @Override
    Collection<? extends hudson.model.Action> createFor(hudson.model.Queue.Item item) {
        List<hudson.model.Action> actions = new ArrayList<hudson.model.Action>()
        try {
            String node = placeOf(item)
            if (node != null) actions.add(new ProvisionerCleanPlace(node))
        } catch (Throwable problem) {
            ProvisionerCleanGuard.complain('placing queue item ' + item.id, problem)
        }
        return actions
    }

    private String placeOf(hudson.model.Queue.Item item) {
        // a Pipeline chooses its node itself, in its script
        if (!(item.task instanceof hudson.model.AbstractProject) || item.task instanceof hudson.model.Queue.FlyweightTask) return null
        if (!guard.wards.containsKey(((hudson.model.Item) item.task).fullName)) return null
        for (hudson.model.ParametersAction given : item.actions.findAll { it instanceof hudson.model.ParametersAction } as List<hudson.model.ParametersAction>) {
            Object value = given.getParameter('NODE')?.value
            // one that is gone is asked for all the same: its cleaning must not run anywhere else
            if (value instanceof String && !((String) value).trim().isEmpty()) return ((String) value).trim()
        }
        return null
    }
}

@groovy.transform.CompileStatic
class ProvisionerCleanPlace extends hudson.model.InvisibleAction implements hudson.model.labels.LabelAssignmentAction {
    final String node
    ProvisionerCleanPlace(String node) { this.node = node }
    @Override
    hudson.model.Label getAssignedLabel(hudson.model.queue.SubTask task) { jenkins.model.Jenkins.get().getLabelAtom(node) }
}

/** What became of the item that a node is reserved for. */
@groovy.transform.CompileStatic
class ProvisionerCleanUse implements hudson.model.ExecutorListener {
    private final ProvisionerCleanGuard guard

    ProvisionerCleanUse(ProvisionerCleanGuard guard) { this.guard = guard }

    @Override
    void taskAccepted(hudson.model.Executor executor, hudson.model.Queue.Task task) { note(executor, 'taken') }

    @Override
    void taskCompleted(hudson.model.Executor executor, hudson.model.Queue.Task task, long durationMS) { note(executor, 'finished') }

    @Override
    void taskCompletedWithProblems(hudson.model.Executor executor, hudson.model.Queue.Task task, long durationMS, Throwable problems) {
        note(executor, 'finished')
    }

    private void note(hudson.model.Executor executor, String what) {
        try {
            Map<String, Object> seat = guard.seatOf(executor)
            if (seat != null) seat.put(what, true)
        } catch (Throwable problem) {
            ProvisionerCleanGuard.complain('noting a build', problem)
        }
    }
}

/** The launch log at the top of a freestyle build's console. */
@groovy.transform.CompileStatic
class ProvisionerCleanConsole extends hudson.model.listeners.RunListener<hudson.model.Run> {
    private final ProvisionerCleanGuard guard

    ProvisionerCleanConsole(ProvisionerCleanGuard guard) {
        super(hudson.model.Run)
        this.guard = guard
    }

    @Override
    void onStarted(hudson.model.Run run, hudson.model.TaskListener listener) {
        try {
            hudson.model.Executor executor = hudson.model.Executor.currentExecutor()
            Map<String, Object> seat = guard.seatOf(executor)
            if (seat == null || !executor.currentExecutable.is(run)) return
            for (Object line : (List) seat.get('lines')) listener.logger.println('[provisioner] ' + line)
        } catch (Throwable problem) {
            ProvisionerCleanGuard.complain('writing the launch log', problem)
        }
    }
}

/** In, in place of an older one; what that one knew is taken over. Out, whichever there is. */
class ProvisionerCleanInstaller {
    static Map lists() {
        return [
            (hudson.model.queue.QueueTaskDispatcher): 'ProvisionerCleanGuard',
            (jenkins.model.TransientActionFactory): 'ProvisionerCleanPlaces',
            (hudson.model.ExecutorListener): 'ProvisionerCleanUse',
            (hudson.model.listeners.RunListener): 'ProvisionerCleanConsole',
            (hudson.model.LabelFinder): 'ProvisionerCleanLabels',
            (jenkins.model.NodeListener): 'ProvisionerCleanNodes',
        ]
    }

    static List present(String name, Class list) {
        return jenkins.model.Jenkins.get().getExtensionList(list).findAll { it.class.simpleName == name }
    }

    /** What each label matches is looked up anew. */
    static void forgetLabels() {
        def trim = jenkins.model.Jenkins.getDeclaredMethod('trimLabels')
        trim.accessible = true
        trim.invoke(jenkins.model.Jenkins.get())
    }

    static Object guard(String version) {
        def found = present('ProvisionerCleanGuard', hudson.model.queue.QueueTaskDispatcher)
        def old = found ? found[0] : null
        if (old != null && old.version == version) return old
        def fresh = new ProvisionerCleanGuard(version, old?.hasProperty('seats') ? old.seats : [:])
        if (old?.hasProperty('wards')) fresh.wards = old.wards
        def jenkins = jenkins.model.Jenkins.get()
        def before = [:]
        lists().each { list, name -> before[list] = present(name, list) }
        // the new ones first: there is no moment without a guard
        jenkins.getExtensionList(hudson.model.queue.QueueTaskDispatcher).add(0, fresh)
        jenkins.getExtensionList(jenkins.model.TransientActionFactory).add(new ProvisionerCleanPlaces(fresh))
        jenkins.getExtensionList(hudson.model.ExecutorListener).add(new ProvisionerCleanUse(fresh))
        jenkins.getExtensionList(hudson.model.listeners.RunListener).add(new ProvisionerCleanConsole(fresh))
        jenkins.getExtensionList(hudson.model.LabelFinder).add(new ProvisionerCleanLabels(fresh))
        jenkins.getExtensionList(jenkins.model.NodeListener).add(new ProvisionerCleanNodes(fresh))
        before.each { list, those -> those.each { jenkins.getExtensionList(list).remove(it) } }
        return fresh
    }
}
